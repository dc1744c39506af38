"""Ablations query by query: what each has more than the first one, with its interval.

The same queries are asked of every run. A query's hit is its mean over seeds; the interval is of
another choice of pictures, drawn with all of their queries, and minimal pairs are drawn as pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sir_jax.evaluation.intervals import Difference, paired_mean_difference
from sir_jax.evaluation.ranking import SIDES, align_columns
from sir_jax.evaluation.rerank import SCORINGS
from sir_jax.runtime.files import whole_file

MEASURES = ("r1", "partner")
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


def format_differences(folders: Mapping[str, Mapping[int, Path]], split: str) -> str:
    """Lay out each ablation's gain over the first one's embedding, in points with intervals.

    Args:
      folders: ablation -> seed -> the run's folder. A run without a file of queries, from before
        there were any, is left out.
      split: that was evaluated.

    Returns:
      A table of several lines; '' where there is nothing to compare.
    """
    runs = {
        name: {s: path for s, f in of.items() if (path := queries_path(f, split)).exists()}
        for name, of in folders.items()
    }
    first, *others = runs
    lines = [["ablation", "scored", "seeds", "R@1 more", "95 %", "p"]]
    for name in (first, *others):
        # The same seeds of both: their batches at random are the same.
        seeds = sorted(runs[name].keys() & runs[first].keys())
        if not seeds:
            continue
        a, b = (read_queries([runs[one][seed] for seed in seeds]) for one in (name, first))
        for prefix, title in SCORINGS:
            if f"{prefix}s2i_r1" not in a or (name == first and not prefix):
                continue
            cells = []
            for measure in MEASURES:
                if f"{prefix}s2i_{measure}" in a:
                    cells += _cells(difference(a, b, prefix, "", measure))
            lines.append([name, title, str(len(seeds)), *cells])
    if len(lines) == 1:
        return ""
    if any(len(line) > len(lines[0]) for line in lines):
        lines[0] += ["partner more", "95 %", "p"]
    width = len(lines[0])
    return "\n".join(align_columns([x + [""] * (width - len(x)) for x in lines], left=2))


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
