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
# # What each term adds
#
# Reads the table that `sir-jax ablate --config=configs/ablations.py --workdir=runs/ablations`
# wrote. Set `SIR_JAX_ABLATIONS` to another `results.csv`, and `SIR_JAX_FIGURES` to a folder to keep
# the figures in.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from sir_jax.evaluation.ablate import format_summary, read_results, summarise
from sir_jax.evaluation.rerank import SCORINGS

# A notebook runs in its own folder, its script anywhere.
root = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "setup.cfg").exists())
table = Path(os.environ.get("SIR_JAX_ABLATIONS", root / "runs/ablations/results.csv"))
figures = os.environ.get("SIR_JAX_FIGURES", "")
rows = read_results(table)
assert rows, f"{table} is not there; run sir-jax ablate, or set SIR_JAX_ABLATIONS"
split = rows[0]["split"]
seeds = sorted({int(row["seed"]) for row in rows})
print(f"{table.name}: {len(rows)} rows, split {split}, seeds {seeds}")

# %% [markdown]
# Recalls in percent, mean and standard deviation over seeds. *coarse* ranks by embedding,
# *match alone* by the matching head over the coarse top k (or by pooled vectors), *fused* as search
# ranks, with the weight fitted on the validation split. The last column is the 95 % interval over
# pictures of one run's mean R@1. A table from before a ranking or the intervals does not hold them.

# %%
print(format_summary(rows, split))

# %%
frame = pd.DataFrame(rows).astype({"value": float, "seed": int})
order = list(dict.fromkeys(frame["ablation"]))
summary = pd.DataFrame(summarise(rows)).set_index(["ablation", "metric"])
summary.loc[(slice(None), "mean_r1"), :].round(4)

# %% [markdown]
# Every dot is one seed; the bar is their mean.

# %%
COLOURS = ("#4477aa", "#ee6677", "#ccbb44", "#228833")
present = [scoring for scoring in SCORINGS if f"{scoring[0]}mean_r1" in set(frame["metric"])]
figure, axis = plt.subplots(figsize=(9, 1.2 + 0.62 * len(order)))
for place, ablation in enumerate(order):
    for number, ((prefix, title), colour) in enumerate(zip(present, COLOURS, strict=False)):
        found = frame[(frame["ablation"] == ablation) & (frame["metric"] == f"{prefix}mean_r1")]
        if found.empty:
            continue
        y = place + 0.78 / len(present) * (number - (len(present) - 1) / 2)
        mean = 100 * found["value"].mean()
        first = title not in axis.get_legend_handles_labels()[1]
        axis.barh(
            y,
            mean,
            height=0.66 / len(present),
            color=colour,
            alpha=0.55,
            label=title if first else None,
        )
        axis.plot(100 * found["value"], [y] * len(found), "o", ms=4, color=colour)
        axis.text(100 * found["value"].max() + 0.8, y, f"{mean:.1f}", va="center", fontsize=8)
axis.set_yticks(range(len(order)), order)
axis.invert_yaxis()
axis.set_xlabel("mean R@1 of both directions, %")
axis.set_title(f"{split} split, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
axis.margins(x=0.08)
axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
figure.tight_layout()
if figures:
    figure.savefig(Path(figures) / "ablations.png", dpi=110)

# %% [markdown]
# ## Does the denoising head read the other modality?
#
# Cosine of the rebuilt tokens with the clean ones, over the replaced tokens of unseen pairs: with
# the pair's own context, with that of another image, and of the noise itself, not rebuilt. A head
# that only fills in from neighbours would not care whose context it is given.

# %%
KINDS = (
    ("cosine", "own context"),
    ("cosine_shuffled", "another's context"),
    ("cosine_noisy", "not rebuilt"),
)
denoised = [
    (ablation, modality)
    for ablation in order
    for modality in ("speech", "image")
    if (ablation, f"denoise_{modality}_cosine") in summary.index
]
figure, axis = plt.subplots(figsize=(7, 3.2))
for number, ((kind, title), colour) in enumerate(zip(KINDS, COLOURS, strict=False)):
    for place, (ablation, modality) in enumerate(denoised):
        found = frame[
            (frame["ablation"] == ablation) & (frame["metric"] == f"denoise_{modality}_{kind}")
        ]["value"]
        x = place + 0.27 * (number - 1)
        axis.bar(x, found.mean(), 0.24, color=colour, alpha=0.55, label=None if place else title)
        axis.plot([x] * len(found), found, "o", ms=4, color=colour)
        axis.text(x, found.max() + 0.015, f"{found.mean():.3f}", ha="center", fontsize=8)
axis.set_xticks(range(len(denoised)), [f"{a}: {m} tokens" for a, m in denoised])
axis.set_ylabel("cosine with the clean tokens")
axis.margins(y=0.12)
axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
figure.tight_layout()
if figures:
    figure.savefig(Path(figures) / "denoising.png", dpi=110)
