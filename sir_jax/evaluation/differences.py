"""Ablations query by query: what each has more than the first one, with its interval.

The same queries are asked of every run. A query's hit is its mean over seeds; the interval is of
another choice of pictures, drawn with all of their queries, and minimal pairs are drawn as pairs.
"""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sir_jax.evaluation.intervals import Difference, paired_mean_difference
from sir_jax.evaluation.ranking import SIDES, align_columns
from sir_jax.evaluation.rerank import SCORINGS
from sir_jax.runtime.files import whole_file

MEASURES = ("r1", "partner")
# Of a gain, by whether its interval is above 0, and below.
GAIN_COLOURS = {(True, False): "#228833", (False, True): "#ee6677", (False, False): "#777777"}
_SIDES = tuple(side for side, *_ in SIDES)


def queries_path(folder: Path, split: str) -> Path:
    """Return where a run's hits by query lie."""
    return folder / f"queries-{split}.npz"


def write_queries(path: Path, rankings: Mapping, partner_hits: Mapping, partners) -> None:
    """Keep a run's hits by query.

    Args:
      path: of the file.
      rankings: prefix -> `evaluation.ranking.Metrics`.
      partner_hits: prefix -> side -> (hits, image ids), of `partner_hits`; empty without pairs.
      partners: `evaluation.partners.Partners`; None without pairs.
    """
    found = {
        f"{prefix}{side}_r1": getattr(metrics, side).hits(1)
        for prefix, metrics in rankings.items()
        for side in _SIDES
    }
    found |= {
        f"{prefix}{side}_partner": hits
        for prefix, sides in partner_hits.items()
        for side, hits in sides.items()
    }
    arrays = {}
    for name, (hits, ids) in found.items():
        arrays[name] = hits
        arrays[f"{name}_unit"] = ids if partners is None else partners.pair(ids)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read_queries(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read runs of the same queries: the mean of their hits, and the unit of each query."""
    runs = [dict(np.load(path)) for path in paths]
    return {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}


def difference(a: Mapping, b: Mapping, name_a: str, name_b: str, measure: str) -> Difference:
    """Return the mean over both directions of what A has more than B.

    Args:
      a, b: of `read_queries`.
      name_a, name_b: prefix of the ranking of each.
      measure: of `MEASURES`.
    """
    sides = []
    for side in _SIDES:
        left, right = f"{name_a}{side}_{measure}", f"{name_b}{side}_{measure}"
        sides.append((a[left], b[right], a[f"{left}_unit"]))
    return paired_mean_difference(sides)


class Gain(NamedTuple):
    """What a ranking of an ablation has more than the embedding of the first one."""

    ablation: str
    scored: str
    seeds: int
    found: dict[str, Difference]  # by the names of `MEASURES`; 'partner' of minimal pairs alone


def measure_gains(folders: Mapping[str, Mapping[int, Path]], split: str) -> list[Gain]:
    """Compare each ablation's rankings with the embedding of the first ablation.

    Args:
      folders: ablation -> seed -> the run's folder. A run without a file of queries, from before
        there were any, is left out.
      split: that was evaluated.
    """
    runs = {
        name: {s: path for s, f in of.items() if (path := queries_path(f, split)).exists()}
        for name, of in folders.items()
    }
    first, gains = next(iter(runs)), []
    for name in runs:
        # The same seeds of both: their batches at random are the same.
        seeds = sorted(runs[name].keys() & runs[first].keys())
        if not seeds:
            continue
        a, b = (read_queries([runs[one][seed] for seed in seeds]) for one in (name, first))
        for prefix, title in SCORINGS:
            if f"{prefix}s2i_r1" in a and (name != first or prefix):
                measures = [x for x in MEASURES if f"{prefix}s2i_{x}" in a]
                found = {x: difference(a, b, prefix, "", x) for x in measures}
                gains.append(Gain(name, title, len(seeds), found))
    return gains


def format_gains(gains: Sequence[Gain]) -> str:
    """Lay out gains in points with their intervals; '' where there are none."""
    if not gains:
        return ""
    titles = {"r1": "R@1 more", "partner": "partner more"}
    measures = [x for x in MEASURES if any(x in gain.found for gain in gains)]
    lines = [["ablation", "scored", "seeds"]]
    for measure in measures:
        lines[0] += [titles[measure], "95 %", "p"]
    for gain in gains:
        cells = [_cells(gain.found[x]) if x in gain.found else [""] * 3 for x in measures]
        lines.append([gain.ablation, gain.scored, str(gain.seeds), *itertools.chain(*cells)])
    return "\n".join(align_columns(lines, left=2))


def write_gains(gains: Sequence[Gain], path: Path) -> None:
    """Write gains as a tidy table, one row a gain and measure, in shares of queries."""
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("ablation", "scored", "seeds", "measure", "value", "low", "high", "p"))
        for name, scored, seeds, found in gains:
            for measure, x in found.items():
                limits = (repr(float(n)) for n in (x.value, x.low, x.high, x.p_value))
                writer.writerow((name, scored, seeds, measure, *limits))


def draw_gains(gains: Sequence[Gain], first: str):
    """Draw gains in R@1 with their 95 % intervals, one line a ranking.

    Args:
      gains: of `measure_gains`.
      first: name of the ablation that the others are compared with.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.1 + 0.26 * len(gains)), layout="constrained")
    axis = figure.subplots()
    for y, gain in enumerate(gains):
        x = gain.found["r1"]
        limits = [[100 * max(0.0, x.value - x.low)], [100 * max(0.0, x.high - x.value)]]
        colour = GAIN_COLOURS[x.low > 0, x.high < 0]
        axis.errorbar(100 * x.value, y, xerr=limits, fmt="o", ms=4, lw=1.2, color=colour)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(gains)), [f"{g.ablation}, {g.scored}" for g in gains], fontsize=8)
    axis.set_ylim(len(gains) - 0.5, -0.5)
    axis.set_xlabel(f"points of R@1 more than the embedding of '{first}'", fontsize=9)
    axis.grid(axis="x", lw=0.3)
    return figure


def _cells(found: Difference) -> list[str]:
    limits = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return [f"{100 * found.value:+.1f}", limits, f"{found.p_value:.4f}"]


def format_partners(rows: Iterable[Mapping]) -> str:
    """Lay out partner accuracy by what is swapped; '' where no run has it.

    Args:
      rows: of `evaluation.ablate.summarise`, of one split.
    """
    found = {(row["ablation"], row["metric"]): row for row in rows}
    names = ["s2i_partner", "i2s_partner", "mean_partner"]
    kinds = dict.fromkeys(
        m.split("mean_partner_")[1] for _, m in found if m.startswith("mean_partner_")
    )
    lines = [["ablation", "scored", "s->i partner", "i->s partner", "mean partner", *kinds]]
    for ablation in dict.fromkeys(name for name, _ in found):
        for prefix, title in SCORINGS:
            metrics = [*names, *(f"mean_partner_{kind}" for kind in kinds)]
            cells = [found.get((ablation, prefix + metric)) for metric in metrics]
            if None not in cells:
                spread = [f" +- {100 * c['std']:.1f}" if c["seeds"] > 1 else "" for c in cells]
                texts = [f"{100 * c['mean']:.1f}{s}" for c, s in zip(cells, spread, strict=True)]
                lines.append([ablation, title, *texts])
    return "\n".join(align_columns(lines, left=2)) if len(lines) > 1 else ""


def format_denoising(rows: Iterable[Mapping]) -> str:
    """Lay out the cosines of rebuilt tokens with clean ones; '' where no run rebuilds.

    Args:
      rows: of `evaluation.ablate.summarise`, of one split.
    """
    found = {(row["ablation"], row["metric"]): row["mean"] for row in rows}
    lines = [["ablation", "rebuilt", "cosine", "with another's context", "gap", "of the noise"]]
    for ablation in dict.fromkeys(name for name, _ in found):
        for modality in ("speech", "image"):
            name = f"denoise_{modality}_cosine"
            if (ablation, name) in found:
                right, wrong, noise = (
                    found[ablation, name + end] for end in ("", "_shuffled", "_noisy")
                )
                cells = (right, wrong, right - wrong, noise)
                lines.append([ablation, modality, *(f"{cell:.3f}" for cell in cells)])
    return "\n".join(align_columns(lines, left=2)) if len(lines) > 1 else ""
