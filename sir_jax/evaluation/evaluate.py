"""Evaluate a retriever on a split: both ways, re-ranked where wanted, at once or in folds."""

from collections.abc import Callable
from pathlib import Path

from sir_jax.evaluation.folds import folds_of, mean_flat
from sir_jax.evaluation.ranking import Metrics, format_table, intervals_of, retrieval_metrics
from sir_jax.evaluation.rerank import SCORINGS, Reranked, format_reranked, rerank
from sir_jax.inference.embed import embed_split
from sir_jax.models import build_model
from sir_jax.runtime.console import say


def evaluate(
    cfg, params, split, batch_size: int, k: int = 0, fold_images: int = 0
) -> tuple[dict[str, float], str]:
    """Evaluate a retriever as it was found.

    Args:
      cfg: has `model` and `data`.
      params: of the model.
      split, batch_size, k: see `evaluate_split`.
      fold_images: see `evaluate_folds`; 0 for the whole split at once.

    Returns:
      Every number by its name, the limits of the 95 % intervals as NAME_low and NAME_high, and the
      printed table of them.

    Raises:
      UserError: the model cannot match, or the split has fewer images than a fold.
    """
    model = build_model(cfg.model, ("match",) if k and "match_head" in params else ())
    if fold_images:
        return evaluate_folds(model, params, split, cfg.data, batch_size, k, fold_images)
    metrics = evaluate_split(model, params, split, cfg.data, batch_size, k)
    flat = metrics.flat() | intervals_of([metrics])
    return flat, format_reranked(flat) if k else format_table(flat)


def evaluate_split(
    model, params, split, data_cfg, batch_size: int, k: int = 0
) -> Metrics | Reranked:
    """Embed a split and rank it both ways, and where wanted re-rank the best by the match score.

    Args:
      model: the joint model.
      params: its parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of a batch.
      k: items of each query that are re-ranked; 0 for none.

    Returns:
      `Metrics`, or `Reranked` where k is not 0: both have `flat()`, `rankings()` and `table()`.

    Raises:
      UserError: the model cannot match.
    """
    if k:
        return rerank(model, params, split, data_cfg, batch_size, k)
    z = embed_split(model, params, split, data_cfg, batch_size)
    return retrieval_metrics(z.speech, z.image, z.speech_image_ids, z.image_ids)


def evaluate_folds(
    model, params, split, data_cfg, batch_size: int, k: int, images: int
) -> tuple[dict[str, float], str]:
    """Evaluate a split in folds of so many images; see `evaluation.folds`.

    Args:
      model, params, split, data_cfg, batch_size, k: see `evaluate_split`.
      images: of a fold.

    Returns:
      The means by name, the limits of their 95 % intervals, and the printed table of them.

    Raises:
      UserError: the split has fewer images than a fold.
    """
    folds = folds_of(split, images)
    found = [evaluate_split(model, params, fold, data_cfg, batch_size, k) for fold in folds]
    flat = mean_flat([metrics.flat() for metrics in found]) | intervals_of(found)
    left = len(split) - images * len(folds)
    lines = [
        f"mean over {len(folds)} folds of {images} images"
        + (f"; {left} images that fill no fold are left out" if left else ""),
        format_reranked(flat) if k else format_table(flat),
        "spread over the folds: mean R@1 "
        + ", ".join(
            f"{title} +- {100 * flat[f'std_{prefix}mean_r1']:.1f} %"
            for prefix, title in SCORINGS
            if f"std_{prefix}mean_r1" in flat
        ),
    ]
    return flat, "\n".join(lines)


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

    That is `val`, or the first of several whose names begin so, as of Places' `val_seen`.

    Args:
      corpus: a `sir_jax.data.corpus.Corpus`.
    """
    splits = [name for name in corpus.splits if name == "val" or name.startswith("val_")]
    if not splits:
        say(f"corpus {corpus.name} has no split 'val': nothing is evaluated, no checkpoint is best")
        return None
    split = corpus.splits[splits[0]]

    def evaluate_now(params, model, cfg) -> dict[str, float]:
        metrics = evaluate_split(model, params, split, cfg.data, cfg.data.batch_size)
        return {f"val/{name}": value for name, value in metrics.flat().items()}

    return evaluate_now
