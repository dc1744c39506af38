# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: search, match, and look where the model looks
#
# Uses the model that ships with the package, on pictures and recordings that
# `sir-jax samples` makes: drawn scenes, and twelve captions by synthetic voices that training never
# heard: eight of eSpeak NG, two each of Piper and flite. Needs no download and a minute on two CPU
# cores.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import sir_jax
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.spectrogram import colour, log_mel
from sir_jax.data.preparation.samples import write_samples

# The tests set a smaller number, and another model.
PICTURES = int(os.environ.get("SIR_JAX_PICTURES", 200))
MODEL = os.environ.get("SIR_JAX_MODEL", "spoken-scenes")

samples = write_samples(Path(tempfile.mkdtemp()) / "samples", PICTURES)
recordings = sorted((samples / "recordings").glob("*.flac"))
words = [path.with_suffix(".txt").read_text().strip() for path in recordings]
described = [samples / "pictures" / f"{path.stem}.png" for path in recordings]
print(*(f"{path.name}: {text}" for path, text in zip(recordings, words, strict=True)), sep="\n")

# %% [markdown]
# ## Load a model
#
# `sir_jax.load` takes the name of a model that ships, a folder that `sir-jax export` wrote, or the
# workdir of a training run. Vectors have unit length, so a dot product is a cosine.

# %%
model = sir_jax.load(MODEL)
z_s = model.encode_speech(recordings)
z_i = model.encode_image(described)
print(f"speech {z_s.shape}, pictures {z_i.shape}, {z_s.dtype}")
print("lengths", np.linalg.norm(np.concatenate([z_s, z_i]), axis=1).round(4))

# %% [markdown]
# ## Search
#
# An index of a folder finds pictures for a recording. It can be saved, loaded and brought up to
# date; search is exact.

# %%
index = sir_jax.Index.build(model, samples / "pictures")
found = index.search(recordings, k=len(index))
for path, text, hits in zip(recordings, words, found, strict=True):
    place = [hit.id for hit in hits].index(f"{path.stem}.png") + 1
    print(f"{place} of {len(index)}: {text}  (best: {hits[0].id}, {hits[0].score:.3f})")

# %% [markdown]
# Each row: a query's spectrogram, and its five best pictures, best first. Green frames the picture
# that was described.

# %%
shown = (1, 4, 5)
figure, axes = plt.subplots(
    len(shown), 6, figsize=(9, 1.7 * len(shown)), width_ratios=(2, 1, 1, 1, 1, 1)
)
for row, number in zip(axes, shown, strict=True):
    row[0].imshow(colour(log_mel(load_audio(recordings[number]))), aspect="auto")
    row[0].set_box_aspect(0.5)
    row[0].set_ylabel(recordings[number].stem)
    row[0].set_title(words[number], fontsize=8, loc="left", in_layout=False)
    for axis, hit in zip(row[1:], found[number], strict=False):
        axis.imshow(Image.open(index.path_of(hit.id)))
        axis.set_xlabel(f"{hit.score:.3f}", fontsize=8)
        right = hit.id == f"{recordings[number].stem}.png"
        for spine in axis.spines.values():
            spine.set(color="tab:green" if right else "lightgrey", linewidth=4 if right else 1)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.tight_layout(w_pad=0.5)

# %% [markdown]
# The other way round: recordings for a picture.

# %%
both = sir_jax.Index.build(model, samples)
for hit in both.search(described[1], k=3):
    print(
        f"{hit.score:.3f}  {hit.id}: {both.path_of(hit.id).with_suffix('.txt').read_text().strip()}"
    )

# %% [markdown]
# ## Match
#
# The fusion encoder reads a recording and a picture together and gives the log-odds that they
# belong to each other. It costs a pass for each pair, so it is asked about a few:
# `index.search(.., rerank=32)` has it order the best 32.

# %%
n = len(recordings)
odds = model.match(
    [recording for recording in recordings for _ in described], described * n
).reshape(n, n)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
for axis, values, title in zip(
    axes, (z_s @ z_i.T, odds), ("similarity", "log-odds of a match"), strict=True
):
    drawn = axis.imshow(values, cmap="viridis")
    axis.set(title=title, xlabel="picture", ylabel="recording")
    axis.set_xticks(range(n), [path.stem for path in described], fontsize=7)
    axis.set_yticks(range(n), [path.stem for path in recordings], fontsize=7)
    figure.colorbar(drawn, ax=axis)
figure.tight_layout()

# %% [markdown]
# ## Where it looks
#
# `attention` gives, for each stretch of speech, the share of each patch of the picture, and how
# much the match depends on each frame and on each patch. How often these maps point at what was
# named is measured by `sir-jax bench pointing`; they are not proofs.

# %%
number = 6
look = model.attention(recordings[number], described[number])
picture = Image.open(described[number])
left, top, right, bottom = look.box
stretches = np.linspace(0, look.seconds, 4)

figure = plt.figure(figsize=(9, 4.2))
grid = figure.add_gridspec(2, 5, height_ratios=(1, 2))
sound = figure.add_subplot(grid[0, :])
sound.imshow(
    colour(log_mel(load_audio(recordings[number]))),
    extent=(0, look.seconds, 0, 1),
    aspect="auto",
)
time = (np.arange(len(look.by_frame)) + 0.5) * look.frame_seconds
sound.plot(time, look.by_frame / look.by_frame.max(), color="white", lw=1)
for second in stretches[1:-1]:
    sound.axvline(second, color="white", lw=1, ls=":")
sound.set(yticks=[], xlabel="seconds", xlim=(0, look.seconds))
sound.set_title(f"{words[number]} (white: how much the match depends on a frame)", fontsize=9)

maps = [(None, f"log-odds {look.score:.1f}"), (look.by_patch, "dependence")]
maps += [
    (look.during(start, end), f"{start:.1f} to {end:.1f} s")
    for start, end in zip(stretches[:-1], stretches[1:], strict=True)
]
for column, (weights, title) in enumerate(maps):
    axis = figure.add_subplot(grid[1, column])
    axis.imshow(picture)
    if weights is not None:
        axis.imshow(
            weights,
            extent=(left, right, bottom, top),
            cmap="magma",
            alpha=0.6,
            interpolation="nearest",
        )
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
figure.tight_layout()

# %% [markdown]
# ## Next
#
# `sir-jax demo` shows the same in a browser, with the microphone. For your own pictures and voices,
# train a model on pairs of them.
