"""Rankings of a split side by side: by embedding, by the match alone, and fused, as search ranks.

A query's list is its k best items by the vectors that search compares; of items with equal scores,
wrong ones come first. What the fusion encoder says of a pair is the log-odds that it matches; for a
clip that is cut into windows (`inference.embed`), the mean over its windows.

- coarse: by embedding alone;
- match alone: lists ordered by log-odds (ALBEF, arXiv 2107.07651). Of a model that only pools, the
  whole gallery by pooled vectors;
- fused: by `losses.fused_score` with the model's weight: what `Index.search` and the page show. Of
  a model that pools, the whole gallery by joint vectors; with a fusion encoder besides, its lists.

So R@j of a list is at most the R@k of the ranking that the list is cut from, for any j up to k.
"""

import dataclasses
from collections.abc import Mapping

from sir_jax.errors import UserError
from sir_jax.evaluation.ranking import (
    RECALL_AT,
    SIDES,
    Metrics,
    align_columns,
    captions_cell,
    intervals_of,
    metrics_of_ranks,
    queries_and_legend,
    rank_cell,
    recall_cells,
    retrieval_metrics,
)
from sir_jax.evaluation.score.calibration import reliability_flat
from sir_jax.evaluation.score.scored import Scored, score_split
from sir_jax.inference.matching import BUDGET
from sir_jax.inference.score import UNFITTED, Score

# The rankings: the prefix of their numbers, and their name in the table.
SCORINGS = (
    ("", "coarse"),
    ("reranked_", "match alone"),
    ("pooled_", "with pooled"),
    ("fused_", "fused"),
)
# Lengths of a list at which the fused ranking is also measured.
CURVE = (4, 8, 16, 32, 64, 128)


@dataclasses.dataclass(frozen=True)
class Reranked:
    """The metrics of all rankings of a split, and of lists their upper bounds and their cost."""

    coarse: Metrics
    alone: Metrics
    fused: Metrics
    pooled: Metrics | None = None  # by joint vectors, where fusion ranks their lists again
    score: Score = UNFITTED
    k_s2i: int = 0  # images in a clip's list; 0 without a fusion encoder
    k_i2s: int = 0  # clips in an image's list
    cap_s2i: float = 1.0  # share of queries with a right item in their list
    cap_i2s: float = 1.0
    pairs: int = 0  # distinct pairs of a clip and an image
    passes: int = 0  # pairs of a window and an image that the fusion encoder read
    seconds: float = 0.0  # of the passes, including compilation and reading of tokens
    curve: Mapping[int, float] = dataclasses.field(default_factory=dict)  # k -> fused mean R@1
    reliability: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def passes_per_s(self) -> float:
        """Return fusion passes per second, including compilation."""
        return self.passes / self.seconds

    def rankings(self) -> dict[str, Metrics]:
        """Return the metrics of each ranking by its prefix in `SCORINGS`."""
        found = zip(SCORINGS, (self.coarse, self.alone, self.pooled, self.fused), strict=True)
        return {prefix: metrics for (prefix, _), metrics in found if metrics is not None}

    def flat(self) -> dict[str, float]:
        """Return all numbers in one dictionary; coarse ones have the names of `Metrics.flat`."""
        flat = {
            f"{prefix}{name}": value
            for prefix, metrics in self.rankings().items()
            for name, value in metrics.flat().items()
        }
        flat |= {
            "weight": self.score.weight,
            "pooled_weight": self.score.pooled_weight,
            "weights_fitted": float(bool(self.score.fitted)),
        }
        if self.k_s2i:
            flat |= {
                "rerank_k_s2i": self.k_s2i,
                "rerank_k_i2s": self.k_i2s,
                "rerank_cap_s2i": self.cap_s2i,
                "rerank_cap_i2s": self.cap_i2s,
                "rerank_pairs": self.pairs,
                "rerank_passes": self.passes,
                "rerank_seconds": self.seconds,
                "rerank_passes_per_s": self.passes_per_s,
            }
        curve = {f"fused_at_{k}_mean_r1": value for k, value in self.curve.items()}
        return flat | curve | dict(self.reliability)

    def table(self) -> str:
        """Return the metrics with their intervals as a table, see `format_reranked`."""
        return format_reranked(self.flat() | intervals_of([self]))


def format_reranked(flat: Mapping[str, float]) -> str:
    """Format the metrics of all rankings as a table, grouped by direction.

    Args:
      flat: the dictionary of `Reranked.flat`, with that of `intervals_of` or without it,
        possibly read from JSON. Of an old file some rankings and lines are missing.

    Returns:
      A text of several lines; recalls, their intervals, chances and caps in percent.
    """
    captions = captions_cell(flat)
    scorings = [(prefix, name) for prefix, name in SCORINGS if f"{prefix}mean_r" in flat]
    listed = "rerank_k_s2i" in flat
    recalls = (f"R@{k} %" for k in RECALL_AT)
    rows = [["", "", "gallery", "captions/image", *recalls, "cap %", "median rank"]]
    for side, title, unit in SIDES:
        gallery = f"{int(flat[f'{side}_gallery'])} {unit}"
        for prefix, name in scorings:
            capped = listed and prefix in ("reranked_", "fused_")
            cap = f"{100 * flat[f'rerank_cap_{side}']:.1f}" if capped else ""
            cells = *recall_cells(flat, side, prefix), cap, rank_cell(flat, side, prefix)
            rows.append([title, name, gallery, captions, *cells])
    both = f"{int(flat['s2i_gallery'])} / {int(flat['i2s_gallery'])}"
    for prefix, name in scorings:
        cells = recall_cells(flat, "mean", prefix)
        rows.append(["mean of both", name, both, captions, *cells, "", ""])
    means = ", ".join(f"{name} {100 * flat[f'{prefix}mean_r']:.1f} %" for prefix, name in scorings)
    lines = [
        *align_columns(rows, left=2),
        f"mean R: {means} ({100 * flat['mean_chance_r']:.3g}); " + queries_and_legend(flat),
    ]
    if listed:
        lines.append(
            f"k: {int(flat['rerank_k_s2i'])} images for a clip, {int(flat['rerank_k_i2s'])} clips "
            f"for an image; cap: R@k of what the lists are cut from; {int(flat['rerank_passes'])} "
            f"fusion passes, {flat['rerank_passes_per_s']:.1f} passes/s"
        )
    return "\n".join([*lines, *_score_lines(flat, listed)])


def _score_lines(flat: Mapping[str, float], listed: bool) -> list[str]:
    """Return the lines on weights, k and calibration; none for an old file."""
    if "weight" not in flat:
        return []
    weights = [f"match {flat['weight']:.3g}"] if listed else []
    if "pooled_mean_r" in flat or not listed:
        weights.append(f"pooled match {flat['pooled_weight']:.3g}")
    how = "fitted on the validation split"
    if not flat["weights_fitted"]:
        how = "not fitted; `sir-jax evaluate --workdir=.. --fit` does"
    lines = [f"weight of the {', of the '.join(weights)} ({how})"]
    if curve := {k: flat[n] for k in CURVE if (n := f"fused_at_{k}_mean_r1") in flat}:
        shown = ", ".join(f"{k}: {100 * value:.1f}" for k, value in curve.items())
        lines.append(f"fused, mean R@1 % by k: {shown}")
    if "calibration_error" in flat:
        lines.append(
            f"match as a probability: calibration error {flat['calibration_error']:.1%} over all "
            f"results of the lists, {flat['calibration_error_first']:.1%} over the first ones"
        )
    return lines


def rank_scored(scored: Scored, score: Score) -> Reranked:
    """Compute the metrics of every ranking of a scored split.

    Args:
      scored: from `score_split`.
      score: the model's.
    """
    ids, reliability = scored.ids, {}
    coarse = retrieval_metrics(*scored.plain, *ids)
    if score.calibration is not None:
        shown = scored.results(score)
        reliability = reliability_flat(shown.chances, shown.right, shown.first)
    common = dict(coarse=coarse, score=score, reliability=reliability)
    joint = retrieval_metrics(*scored.vectors, *ids) if scored.pooled else None
    if scored.match is None:
        return Reranked(alone=retrieval_metrics(*scored.pooled, *ids), fused=joint, **common)

    def ranked(order, k: int | None = None) -> Metrics:
        ranks = (
            side.cut(k or odds.shape[1]).reranked(order(side.lists.scores, odds)[:, :k])
            for side, odds in zip(scored.sides, scored.match, strict=True)
        )
        return metrics_of_ranks(*ranks, *ids)

    def fuse(similarity, odds):
        return score.fused(similarity, scored.scale.temperature, odds)

    side_s, side_i = scored.sides
    k_s2i, k_i2s = (side.lists.items.shape[1] for side in scored.sides)
    lengths = [k for k in CURVE if k <= max(k_s2i, k_i2s)]
    return Reranked(
        alone=ranked(lambda _, odds: odds),
        fused=ranked(fuse),
        pooled=joint,
        k_s2i=k_s2i,
        k_i2s=k_i2s,
        cap_s2i=side_s.cap,
        cap_i2s=side_i.cap,
        pairs=scored.pairs,
        passes=scored.passes,
        seconds=scored.seconds,
        curve={k: ranked(fuse, k).flat()["mean_r1"] for k in lengths},
        **common,
    )


def rerank(
    model,
    params,
    split,
    data_cfg,
    batch_size: int,
    k: int,
    pair_batch: int | None = None,
    budget: int = BUDGET,
    score: Score = UNFITTED,
) -> Reranked:
    """Rank a split by embedding and by the whole score, the k best of each query by fusion.

    Args:
      model: the joint model, with the tasks 'match' or 'pool' or both.
      params: the model's parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of an encoder's batch.
      k: length of a list, at least 1; at most the whole gallery is used.
      pair_batch: pairs in a fusion pass; None for `batch_size`.
      budget: bytes of token features on one device at once, see `score_pairs`.
      score: weights and calibration.

    Returns:
      `Reranked`. Images without a caption occur in the lists of clips but are no queries.

    Raises:
      UserError: the model cannot match.
      ValueError: k is below 1, or a score is not finite.
    """
    if not {"match", "pool"} & {*model.tasks}:
        raise UserError(
            "this model has no matching head, as loss.sim.weight is 0: nothing can be re-ranked; "
            "train one with loss.sim.weight=1, or do not re-rank"
        )
    given = model, params, split, data_cfg, batch_size, k
    return rank_scored(score_split(*given, lambda *_: score, pair_batch, budget), score)
