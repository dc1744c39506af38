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
# # What a retriever stands
#
# The grid of `sir-jax robustness` on a small corpus that is made on the spot, which needs the extra
# `synth` and two minutes. Set `SIR_JAX_GRID` to a folder that the verb wrote to read a whole grid,
# or to several folders, separated by colons, to see them beside each other.

# %%
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import sir_jax
from sir_jax.data.corpus import open_corpus
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.data.media.spectrogram import RANGE_DB, log_mel
from sir_jax.evaluation.robustness.conditions import choose
from sir_jax.evaluation.robustness.figure import draw
from sir_jax.evaluation.robustness.grid import run_grid
from sir_jax.evaluation.robustness.table import TABLE, format_table, read_table

# The tests set smaller numbers, and another model.
PICTURES = int(os.environ.get("SIR_JAX_PICTURES", 40))
MODEL = os.environ.get("SIR_JAX_MODEL", "spoken-scenes")
FAMILIES = os.environ.get("SIR_JAX_FAMILIES", "white noise,reverberation,silence,speed,blur,crop")

here = Path(tempfile.mkdtemp())
name = f"spoken_scenes/one-i2-d2-t{PICTURES}-c2-v64-p128-s0"
sizes = ["--train_images=2", "--val_images=2", f"--test_images={PICTURES}", "--captions=2"]
command = ["sir-jax", "data", "spoken_scenes", "--engines=espeak", *sizes, f"--data_dir={here}"]
subprocess.run(command, check=True, capture_output=True)
split = open_corpus(name, here).split("test")
print(f"{len(split)} pictures, {len(split.index)} captions")

# %% [markdown]
# ## What is done to a clip and to a picture
#
# Every draw depends on the seed, the condition's name and the item's id alone.

# %%
first = split[0]
wave = load_audio(first.captions[0].audio)
other = lambda rng: load_audio(split[1].captions[int(rng.integers(2))].audio)  # noqa: E731
shown = [("clean", lambda x: x)]
for condition in choose(["white noise", "babble", "reverberation", "telephone", "Opus"]):
    if condition.level in ("10 dB", "0.5 s", "mu-law", "6 kbit/s"):
        apply = lambda x, c=condition: c.apply(x, c.stream(0, 0), other)  # noqa: E731
        shown.append((condition.name, apply))
figure, axes = plt.subplots(2, 3, figsize=(8, 3.2), dpi=80, sharex=True, sharey=True)
for axis, (title, apply) in zip(axes.flat, shown, strict=True):
    mel = log_mel(apply(wave)).T
    axis.imshow(mel, origin="lower", aspect="auto", vmin=mel.max() - RANGE_DB, vmax=mel.max())
    axis.set_title(title, fontsize=9)
figure.suptitle(first.captions[0].text, fontsize=9)
figure.tight_layout()
plt.show()

# %%
picture = load_image(first.image)
strong = {c.family: c for c in choose([]) if c.side == "image"}  # the last level of each
figure, axes = plt.subplots(1, 1 + len(strong), figsize=(11, 2))
axes[0].imshow(picture)
axes[0].set_title("clean", fontsize=7)
for axis, condition in zip(axes[1:], strong.values(), strict=True):
    axis.imshow(condition.apply(picture, condition.stream(0, 0), 64))
    axis.set_title(condition.name, fontsize=7)
for axis in axes:
    axis.set_axis_off()
plt.show()

# %% [markdown]
# ## The table
#
# R@1 with its 95 % interval, resampled by picture, and what it has less than the clean condition,
# paired by picture.

# %%
grids = [Path(folder) for folder in os.environ.get("SIR_JAX_GRID", "").split(":") if folder]
if not grids:
    model = sir_jax.load(MODEL)
    grids = [here / Path(MODEL).name]
    run_grid(
        model.model,
        model.params,
        split,
        model.cfg.data,
        choose([family for family in FAMILIES.split(",") if family]),
        grids[0],
        fingerprint=model.fingerprint,
        corpus=name,
    )
tables = {folder.name: read_table(folder / TABLE) for folder in grids}
for title, rows in tables.items():
    print(title)
    print(format_table(row for row in rows if "speaker=" not in row["part"]))

# %% [markdown]
# ## The figure

# %%
draw(tables)

# %% [markdown]
# ## What costs most
#
# The mean loss of R@1 over the levels of a family, both directions.

# %%
rows = pd.DataFrame(next(iter(tables.values())))
rows = rows[(rows["metric"] == "mean_r1") & (rows["difference"] != "")]
loss = rows.assign(points=-100 * rows["difference"].astype(float)).groupby("family")["points"]
assert np.isfinite(loss.mean()).all()
loss.mean().sort_values(ascending=False).round(1)
