"""Evaluate a retriever on a split: both ways, re-ranked where wanted, at once or in folds.

Two rankings of the same split are compared by query.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sir_jax.evaluation.folds import folds_of, mean_flat
from sir_jax.evaluation.intervals import (
    Difference,
    Interval,
    mean_recall_interval,
    paired_mean_difference,
)
from sir_jax.evaluation.ranking import (
    RECALL_AT,
    SIDES,
    Metrics,
    align_columns,
    format_table,
    intervals_of,
    retrieval_metrics,
)
from sir_jax.evaluation.rerank import SCORINGS, Reranked, format_reranked, rerank
from sir_jax.evaluation.score.fit import K, validation_split
from sir_jax.inference.embed import embed_split
from sir_jax.inference.score import UNFITTED, Score
from sir_jax.models import build_model, tasks_of_params
from sir_jax.runtime.console import say


class Compared(NamedTuple):
    """One recall of two rankings of the same queries."""

    title: str  # of the direction
    k: int
    a: Interval
    b: Interval
    difference: Difference


def evaluate(
    cfg,
    params,
    split,
    batch_size: int,
    k: int = 0,
    fold_images: int = 0,
    score: Score = UNFITTED,
) -> tuple[dict[str, float], str]:
    """Evaluate a retriever as it was found.

    Args:
      cfg: has `model` and `data`.
      params: of the model.
      split, batch_size, k: see `evaluate_split`.
      fold_images: see `evaluate_folds`; 0 for the whole split at once.
      score: the model's weights and calibration.

    Returns:
      Every number by its name, the limits of the 95 % intervals as NAME_low and NAME_high, and the
      printed table of them.

    Raises:
      UserError: the model cannot match, or the split has fewer images than a fold.
    """
    if fold_images:
        model = model_to_rank(cfg, params, k)
        return evaluate_folds(model, params, split, cfg.data, batch_size, k, fold_images, score)
    metrics = evaluate_model(cfg, params, split, batch_size, k, score)
    flat = metrics.flat() | intervals_of([metrics])
    return flat, format_flat(flat)


def format_flat(flat: Mapping[str, float]) -> str:
    """Lay out the numbers of `Metrics.flat` or `Reranked.flat` as a table."""
    return format_reranked(flat) if "fused_mean_r" in flat else format_table(flat)


def model_to_rank(cfg, params, k: int):
    """Return the model of found parameters, with its fusion encoder where k asks for it."""
    tasks = tasks_of_params(params)
    return build_model(cfg.model, tuple(task for task in tasks if k or task == "pool"))


def evaluate_model(
    cfg, params, split, batch_size: int, k: int = 0, score: Score = UNFITTED
) -> Metrics | Reranked:
    """Rank a split by a retriever as it was found; see `evaluate` and `evaluate_split`."""
    model = model_to_rank(cfg, params, k)
    return evaluate_split(model, params, split, cfg.data, batch_size, k, score)


def evaluate_split(
    model, params, split, data_cfg, batch_size: int, k: int = 0, score: Score = UNFITTED
) -> Metrics | Reranked:
    """Embed a split and rank it both ways, and where there is a match by that as well.

    Args:
      model: the joint model.
      params: its parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of a batch.
      k: items of each query that the fusion encoder ranks again; 0 for none.
      score: the model's weights and calibration.

    Returns:
      `Metrics`; `Reranked` where k is not 0 or the model pools. Both have `flat()`, `rankings()`
      and `table()`.

    Raises:
      UserError: k is not 0 and the model cannot match.
    """
    if k or "pool" in model.tasks:
        given = model, params, split, data_cfg, batch_size
        return rerank(*given, k or K, score=score)
    return coarse_metrics(model, params, split, data_cfg, batch_size)


def coarse_metrics(model, params, split, data_cfg, batch_size: int) -> Metrics:
    """Rank a split by embedding alone; see `evaluate_split`."""
    z = embed_split(model, params, split, data_cfg, batch_size)
    return retrieval_metrics(z.speech, z.image, z.speech_image_ids, z.image_ids)


def evaluate_folds(
    model,
    params,
    split,
    data_cfg,
    batch_size: int,
    k: int,
    images: int,
    score: Score = UNFITTED,
) -> tuple[dict[str, float], str]:
    """Evaluate a split in folds of so many images; see `evaluation.folds`.

    Args:
      model, params, split, data_cfg, batch_size, k: see `evaluate_split`.
      images: of a fold.
      score: the model's weights and calibration.

    Returns:
      The means by name, the limits of their 95 % intervals, and the printed table of them.

    Raises:
      UserError: the split has fewer images than a fold.
    """
    folds = folds_of(split, images)
    found = [evaluate_split(model, params, fold, data_cfg, batch_size, k, score) for fold in folds]
    # A mean of bins of different counts would say nothing.
    flats = [
        {name: x for name, x in metrics.flat().items() if not name.startswith("reliability_")}
        for metrics in found
    ]
    flat = mean_flat(flats) | intervals_of(found)
    left = len(split) - images * len(folds)
    lines = [
        f"mean over {len(folds)} folds of {images} images"
        + (f"; {left} images that fill no fold are left out" if left else ""),
        format_flat(flat),
        "spread over the folds: mean R@1 "
        + ", ".join(
            f"{title} +- {100 * flat[f'std_{prefix}mean_r1']:.1f} %"
            for prefix, title in SCORINGS
            if f"std_{prefix}mean_r1" in flat
        ),
    ]
    return flat, "\n".join(lines)


def compare(a: Metrics, b: Metrics) -> list[Compared]:
    """Compare two rankings of the same queries: each recall of either, and their paired difference.

    Args:
      a, b: of the same split.

    Returns:
      A `Compared` for each recall: both directions, then their mean.

    Raises:
      ValueError: their queries differ.
    """
    for side, title, _ in SIDES:
        if not np.array_equal(getattr(a, side).picture, getattr(b, side).picture):
            raise ValueError(f"A and B differ in the queries of {title}; rank the same split")
    names = [((side,), title) for side, title, _ in SIDES]
    compared = []
    for sides, title in [*names, (("s2i", "i2s"), "mean of both")]:
        for k in RECALL_AT:
            hits_a, hits_b = ([getattr(one, side).hits(k) for side in sides] for one in (a, b))
            pairs = [(x, y, picture) for (x, picture), (y, _) in zip(hits_a, hits_b, strict=True)]
            both = mean_recall_interval(hits_a), mean_recall_interval(hits_b)
            compared.append(Compared(title, k, *both, paired_mean_difference(pairs)))
    return compared


def format_compared(compared: Sequence[Compared]) -> str:
    """Lay out recalls with 95 % intervals in percent, their differences in points, and p-values."""

    def cell(one, form: str) -> str:
        value, low, high = (format(100 * x, form) for x in one[:3])
        return f"{value} [{low}, {high}]"

    rows = [["", "", "A %", "B %", "A - B", "p"]]
    for one in compared:
        p = f"{one.difference.p_value:.4f}"
        cells = [cell(one.a, ".1f"), cell(one.b, ".1f"), cell(one.difference, "+.1f"), p]
        rows.append([one.title, f"R@{one.k}", *cells])
    legend = (
        "in [ ]: 95 % interval over pictures; A - B in points, paired by query; p: randomisation "
        "test, which swaps A and B on random pictures"
    )
    return "\n".join([*align_columns(rows, left=2), legend])


def result_path(workdir: Path, split: str, corpus: str, trained_on: str, fold_images: int) -> Path:
    """Return where the numbers go: another corpus or another protocol has a file of its own."""
    parts = ["eval"]
    if corpus != trained_on:
        parts.append(corpus.replace("/", "-"))
    parts.append(split)
    if fold_images:
        parts.append(f"folds-of-{fold_images}")
    return Path(workdir) / f"{'_'.join(parts)}.json"


def trained_on(cfg, corpus: str) -> str:
    """Say on what a model was trained, where that is not what it is evaluated on."""
    if corpus == cfg.data.corpus:
        return ""
    # A release does not tell from what its run went on.
    first = "init" in cfg and not cfg.init.model
    return f", trained on {cfg.data.corpus}" + (": zero-shot" if first else "")


def make_evaluate(corpus) -> Callable | None:
    """Return the function that ranks the validation split during training; None without one.

    That is `score.fit.validation_split`. The embedding alone decides: weights are fitted later.

    Args:
      corpus: a `sir_jax.data.corpus.Corpus`.
    """
    split = validation_split(corpus)
    if split is None:
        say(f"corpus {corpus.name} has no split 'val': nothing is evaluated, no checkpoint is best")
        return None

    def evaluate_now(params, model, cfg) -> dict[str, float]:
        metrics = coarse_metrics(model, params, split, cfg.data, cfg.data.batch_size)
        return {f"val/{name}": value for name, value in metrics.flat().items()}

    return evaluate_now
