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
# # Your own pictures, in your own language
#
# From a folder of pictures and their names to search by voice and by typing. The pictures are drawn
# here, so that nothing is downloaded: 24 shapes with names in French and Greek. Put your own folder
# and file in their place. Needs the extras `train` and `synth`; what it takes is mostly training.

# %%
import contextlib
import csv
import io
import itertools
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from absl import logging
from PIL import Image, ImageDraw

import sir_jax
from sir_jax.data.corpus import open_corpus
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.spectrogram import colour, log_mel
from sir_jax.learning import Wish, learn

# The tests set smaller numbers.
SHAPES = int(os.environ.get("SIR_JAX_SHAPES", 4))
STEPS = int(os.environ.get("SIR_JAX_STEPS", 0)) or None

logging.set_verbosity(logging.ERROR)  # TFDS and Orbax warn of what is meant here
place = Path(tempfile.mkdtemp())
pictures = place / "pictures"
pictures.mkdir()

# %% [markdown]
# ## A folder and a file
#
# `names.csv` has a line for each picture, and a column for each language.

# %%
COLOURS = {
    "red": ("rouge", "κόκκινο"),
    "blue": ("bleu", "μπλε"),
    "green": ("vert", "πράσινο"),
    "gold": ("jaune", "κίτρινο"),
    "black": ("noir", "μαύρο"),
    "purple": ("violet", "μοβ"),
}
DRAWN = {
    "square": ("un carré", "ένα {} τετράγωνο"),
    "triangle": ("un triangle", "ένα {} τρίγωνο"),
    "star": ("un astre", "ένα {} αστέρι"),
    "cross": ("un signe plus", "ένα {} συν"),
}
CORNERS = {
    "square": [(16, 16), (80, 16), (80, 80), (16, 80)],
    "triangle": [(48, 12), (84, 80), (12, 80)],
    "star": [(48, 8), (58, 38), (88, 48), (58, 58), (48, 88), (38, 58), (8, 48), (38, 38)],
    "cross": [
        *[(36, 12), (60, 12), (60, 36), (84, 36), (84, 60), (60, 60)],
        *[(60, 84), (36, 84), (36, 60), (12, 60), (12, 36), (36, 36)],
    ],
}

rows = []
for shape, shade in itertools.product(list(DRAWN)[:SHAPES], COLOURS):
    drawing = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(drawing).polygon(CORNERS[shape], fill=shade)
    name = f"{shade}-{shape}.png"
    drawing.save(pictures / name)
    french, greek = COLOURS[shade]
    rows.append((name, f"{DRAWN[shape][0]} {french}", DRAWN[shape][1].format(greek)))
with (place / "names.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("file", "fr", "el"), *rows])
print((place / "names.csv").read_text()[:200])

# %% [markdown]
# ## Learn
#
# The same as `sir-jax learn --images=pictures --captions=names.csv --out=found`. Every size is
# chosen and explained; an option sets it. A second call would skip what is finished.

# %%
wish = Wish(
    pictures,
    place / "found",
    captions=place / "names.csv",
    languages=("fr", "el"),
    data_dir=place / "data",
    engines=("espeak",),
    steps=STEPS,
)
lines: list[str] = []
# Corpus and training tell how far they are, at length.
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    learnt = learn(wish, lines.append)
print("\n".join(line for line in lines if " = " in line or line.startswith("[")))

# %% [markdown]
# The test asks for the same pictures by voices that training never heard. Chance is one in the
# number of pictures.

# %%
found = learnt.results["test"]
for k in (1, 5):
    recall, low, high = (100 * found[f"s2i_r{k}{end}"] for end in ("", "_low", "_high"))
    print(f"R@{k}: {recall:.0f} % [{low:.0f}, {high:.0f}] of {found['s2i_gallery']:.0f} pictures")

# %% [markdown]
# ## Search by voice
#
# Three captions of the test, by voices that training never heard. Put recordings of your own in
# their place: `index.search("me.wav")`.

# %%
model = sir_jax.load(str(learnt.release))
index = sir_jax.Index.load(learnt.index, model)
split = open_corpus(learnt.corpus, place / "data").splits["test"]
count = min(3, len(split))
asked = [split[row * (len(split) // count)] for row in range(count)]
spoken = [record.captions[row % 2] for row, record in enumerate(asked)]
sounds = [caption.audio for caption in spoken]
hits = index.search(sounds, k=min(5, len(index)), of="image")

figure, axes = plt.subplots(count, 6, figsize=(9, 1.7 * count), width_ratios=(2, 1, 1, 1, 1, 1))
for row, record, caption, best in zip(axes, asked, spoken, hits, strict=True):
    row[0].imshow(colour(log_mel(load_audio(caption.audio))), aspect="auto")
    row[0].set_box_aspect(0.5)
    row[0].set_title(f"{caption.text} ({caption.language})", fontsize=8, loc="left")
    for axis, hit in zip(row[1:], best, strict=False):
        axis.imshow(Image.open(index.path_of(hit.id)))
        axis.set_xlabel(f"{hit.score:.3f}", fontsize=8)
        right = hit.id == record.key
        for spine in axis.spines.values():
            spine.set(color="tab:green" if right else "lightgrey", linewidth=4 if right else 1)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.tight_layout(w_pad=0.5)

# %% [markdown]
# ## Search by typing
#
# `sir_jax.say` has several voices say the words, and their vectors are averaged.

# %%
for name, french, greek in rows[:2]:
    for words, language in ((french, "fr"), (greek, "el")):
        said = sir_jax.say(words, language, engines=["espeak"])
        (best, *_) = index.search(said, k=1)
        print(f"{words} ({language}): {best.id}, {best.score:.3f}; it is {name}")
