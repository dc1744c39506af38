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
# # What is in a corpus
#
# Splits, lengths, speakers, words, spectrograms and samples. Set `SIR_JAX_CORPUS` to the name of a
# prepared corpus (and `SIR_JAX_DATA` to where corpora live); without it a small one is made on the
# spot, which needs the extra `synth` and a few seconds.

# %%
import collections
import io
import os
import subprocess
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image

from sir_jax.data.corpus import open_corpus
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio
from sir_jax.data.media.augment import add_noise, narrow_band, pink_noise
from sir_jax.data.media.spectrogram import RANGE_DB, log_mel
from sir_jax.data.preparation.sheet import show

IMAGES = int(os.environ.get("SIR_JAX_IMAGES", 60))  # the tests set a smaller number

name, data_dir = os.environ.get("SIR_JAX_CORPUS"), None
if not name:
    data_dir, few = tempfile.mkdtemp(), IMAGES // 3
    name = f"spoken_scenes/one-i{IMAGES}-d{few}-t{few}-c4-v64-p128-s0"
    sizes = [f"--train_images={IMAGES}", f"--val_images={few}", f"--test_images={few}"]
    command = ["sir-jax", "data", "spoken_scenes", "--engines=espeak", *sizes]
    subprocess.run([*command, f"--data_dir={data_dir}"], check=True, capture_output=True)
corpus = open_corpus(name, data_dir)
print(corpus.name)

# %% [markdown]
# ## Splits
#
# A record is one picture with all its captions. The index of a split knows each caption's length
# without reading it.

# %%
records = {
    name: [split[row] for row in range(min(len(split), 200))]  # of a large corpus the first 200
    for name, split in corpus.splits.items()
}
speakers = {
    name: {caption.speaker for record in found for caption in record.captions}
    for name, found in records.items()
}
pd.DataFrame.from_dict(
    {
        name: {
            "pictures": len(split),
            "captions": len(split.index),
            "minutes": split.index["samples"].sum(dtype="i8") / SAMPLE_RATE / 60,
            "speakers": len(speakers[name]),
        }
        for name, split in corpus.splits.items()
    },
    orient="index",
).round(1)

# %% [markdown]
# A number on the test split says something about new voices only if its speakers occur in no other
# split.

# %%
names = list(speakers)
for place, first in enumerate(names):
    for second in names[place + 1 :]:
        print(f"speakers in {first} and {second}: {len(speakers[first] & speakers[second])}")

# %% [markdown]
# ## Lengths
#
# Batches are padded to the lengths of `data.buckets`. The fewer and the longer the buckets, the
# more silence is computed; the more buckets, the more programs are compiled.

# %%
BUCKETS = (46_000, 52_000, 67_000)  # samples
index = corpus.splits["train"].index
seconds = index["samples"] / SAMPLE_RATE
padded = np.array(BUCKETS)[np.searchsorted(BUCKETS, np.minimum(index["samples"], BUCKETS[-1]))]
sound = np.minimum(index["samples"], BUCKETS[-1]).sum() / padded.sum()

figure, axis = plt.subplots(figsize=(7, 2.6))
axis.hist(seconds, bins=30, color="#4477aa")
for samples in BUCKETS:
    axis.axvline(samples / SAMPLE_RATE, color="#ee6677", ls="--")
axis.set(xlabel="seconds", ylabel="captions")
axis.set_title(f"train: median {np.median(seconds):.2f} s; in these buckets {sound:.0%} is sound")
figure.tight_layout()

# %% [markdown]
# ## Speakers and words

# %%
counts = collections.Counter(
    caption.speaker for record in records["train"] for caption in record.captions
)
words = collections.Counter(
    word
    for record in records["train"]
    for caption in record.captions
    for word in caption.text.lower().replace(",", "").split()
)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
axes[0].bar(range(len(counts)), sorted(counts.values(), reverse=True), color="#4477aa")
axes[0].set(xlabel=f"{len(counts)} speakers", ylabel="captions", title="captions a speaker")
common = words.most_common(20)
axes[1].barh([word for word, _ in common], [count for _, count in common], color="#4477aa")
axes[1].invert_yaxis()
axes[1].tick_params(axis="y", labelsize=7)
axes[1].set(xlabel="occurrences", title=f"{len(words)} words, the commonest")
figure.tight_layout()

# %% [markdown]
# ## Samples
#
# The sheet that `sir-jax data show` draws: pictures at random, each with its recordings to one
# scale of time.

# %%
sheet = show(corpus, "test", count=2, seed=0)
jpeg = io.BytesIO()
sheet.resize((900, 900 * sheet.height // sheet.width)).save(jpeg, "JPEG", quality=85)
Image(jpeg.getvalue())

# %% [markdown]
# ## What a microphone may do to it
#
# `data.augment` adds such disturbances in training. A spectrogram as it is, in pink noise 5 dB
# below the speech, and through a telephone.

# %%
caption = records["test"][0].captions[0]
wave = load_audio(caption.audio)
rng = np.random.default_rng(0)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True)
for axis, (title, changed) in zip(
    axes,
    {
        "as recorded": wave,
        "pink noise, 5 dB": add_noise(wave, pink_noise(len(wave), rng), 5.0),
        "telephone": narrow_band(wave, mu_law=True),
    }.items(),
    strict=True,
):
    axis.imshow(
        log_mel(changed).T,
        origin="lower",
        aspect="auto",
        cmap="inferno",
        vmin=-RANGE_DB,
        extent=(0, len(changed) / SAMPLE_RATE, 0, 64),
    )
    axis.set(title=title, xlabel="seconds")
axes[0].set_ylabel("mel band")
figure.suptitle(caption.text, fontsize=9)
figure.tight_layout()
