"""Recall, rank and chance level of cross-modal retrieval, for any number of captions per image.

Scores are dot products, computed in float64 and rounded to float32. So equal vectors have equal
scores in every chunk, and ties are recognised.

Ties are broken pessimistically: a wrong item whose score equals that of the best right item counts
as ranked before it. So a collapsed model, whose scores are all equal, gets the worst rank.

A query's rank is that of its best right item, counted from 1; other right items are ignored.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sir_jax.evaluation.intervals import mean_recall_interval, median_rank_interval

RECALL_AT = (1, 5, 10)
# The directions: the prefix of their numbers, their name in the table, what the gallery holds.
SIDES = (("s2i", "speech->image", "images"), ("i2s", "image->speech", "clips"))


@dataclasses.dataclass(frozen=True)
class Direction:
    """The metrics of one direction."""

    queries: int  # number of queries
    gallery: int  # number of items in the gallery
    recall: tuple[float, ...]  # fractions of 1, in the order of `RECALL_AT`
    chance: tuple[float, ...]  # recalls of a random order
    median_rank: float
    chance_median_rank: int  # median rank of a random order
    ranks: np.ndarray = dataclasses.field(compare=False, repr=False)  # int[queries], from 1
    picture: np.ndarray = dataclasses.field(compare=False, repr=False)  # int[queries], its id

    def hits(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each query has a right item among the first k, and its picture."""
        return self.ranks <= k, self.picture


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The metrics of both directions."""

    s2i: Direction  # speech queries, images in the gallery
    i2s: Direction  # image queries, speech in the gallery
    captions_per_image: tuple[int, int]  # fewest and most

    def flat(self) -> dict[str, float]:
        """Return all numbers in one dictionary; recalls and chances are fractions of 1."""
        flat: dict[str, float] = {}
        for name, side in (("s2i", self.s2i), ("i2s", self.i2s)):
            for k, recall, chance in zip(RECALL_AT, side.recall, side.chance, strict=True):
                flat[f"{name}_r{k}"] = recall
                flat[f"{name}_chance_r{k}"] = chance
            flat[f"{name}_median_rank"] = side.median_rank
            flat[f"{name}_chance_median_rank"] = side.chance_median_rank
            flat[f"{name}_queries"] = side.queries
            flat[f"{name}_gallery"] = side.gallery
        for prefix in ("", "chance_"):
            for k in RECALL_AT:
                flat[f"mean_{prefix}r{k}"] = (
                    flat[f"s2i_{prefix}r{k}"] + flat[f"i2s_{prefix}r{k}"]
                ) / 2
            flat[f"mean_{prefix}r"] = sum(flat[f"mean_{prefix}r{k}"] for k in RECALL_AT) / len(
                RECALL_AT
            )
        flat["captions_per_image_min"], flat["captions_per_image_max"] = self.captions_per_image
        return flat

    def rankings(self) -> dict[str, "Metrics"]:
        """Return the metrics of each ranking by the prefix of its numbers: here there is one."""
        return {"": self}

    def table(self) -> str:
        """Return the metrics with their intervals as a table for printing, see `format_table`."""
        return format_table(self.flat() | intervals_of([self]))


def intervals_of(folds: Sequence) -> dict[str, float]:
    """Return the limits of the 95 % intervals of recalls and median ranks, of every ranking.

    Args:
      folds: the `Metrics` or `Reranked` of a split, or those of its folds, whose recalls are
        averaged.

    Returns:
      NAME_low and NAME_high for the recalls and median ranks of `flat()`; several folds have none
      of the median ranks.
    """
    found = {}
    for prefix in folds[0].rankings():
        parts = [fold.rankings()[prefix] for fold in folds]
        for k in RECALL_AT:
            hits = {side: [getattr(part, side).hits(k) for part in parts] for side, *_ in SIDES}
            hits["mean"] = [one for side, *_ in SIDES for one in hits[side]]
            found |= {f"{prefix}{side}_r{k}": mean_recall_interval(x) for side, x in hits.items()}
        for side, *_ in SIDES if len(parts) == 1 else ():
            one = getattr(parts[0], side)
            found[f"{prefix}{side}_median_rank"] = median_rank_interval(one.ranks, one.picture)
    return {
        f"{name}_{limit}": getattr(interval, limit)
        for name, interval in found.items()
        for limit in ("low", "high")
    }


def format_table(flat: Mapping[str, float]) -> str:
    """Format metrics as a table, with gallery size, captions per image and chance of each number.

    Args:
      flat: the dictionary of `Metrics.flat`, with that of `intervals_of` or without it,
        possibly read from JSON.

    Returns:
      A text of several lines; recalls, their intervals and chances in percent.
    """
    captions = captions_cell(flat)
    rows = [["", "gallery", "captions/image", *(f"R@{k} %" for k in RECALL_AT), "median rank"]]
    for side, title, unit in SIDES:
        gallery = f"{int(flat[f'{side}_gallery'])} {unit}"
        rows.append([title, gallery, captions, *recall_cells(flat, side), rank_cell(flat, side)])
    both = f"{int(flat['s2i_gallery'])} / {int(flat['i2s_gallery'])}"
    rows.append(["mean of both", both, captions, *recall_cells(flat, "mean"), ""])
    mean = f"mean R {100 * flat['mean_r']:.1f} % ({100 * flat['mean_chance_r']:.3g}); "
    return "\n".join([*align_columns(rows, left=1), mean + queries_and_legend(flat)])


def captions_cell(flat: Mapping[str, float]) -> str:
    """Return the captions per image, as `4` or `1-4`."""
    fewest, most = int(flat["captions_per_image_min"]), int(flat["captions_per_image_max"])
    return str(fewest) if fewest == most else f"{fewest}-{most}"


def recall_cells(flat: Mapping[str, float], side: str, prefix: str = "") -> list[str]:
    """Return the cells of one direction's recalls, or of their mean, as `97.0 [95.4, 98.2] (0.2)`.

    Args:
      flat: see `format_table`.
      side: 's2i', 'i2s' or 'mean'.
      prefix: of the ranking, one of `rerank.SCORINGS`.
    """
    return [
        f"{100 * flat[f'{prefix}{side}_r{k}']:.1f}"
        + _limits(flat, f"{prefix}{side}_r{k}", lambda x: f"{100 * x:.1f}")
        + f" ({100 * flat[f'{side}_chance_r{k}']:.3g})"
        for k in RECALL_AT
    ]


def rank_cell(flat: Mapping[str, float], side: str, prefix: str = "") -> str:
    """Return the cell of one direction's median rank; see `recall_cells`."""
    name = f"{prefix}{side}_median_rank"
    limits = _limits(flat, name, lambda x: f"{x:g}")
    return f"{flat[name]:g}{limits} ({flat[f'{side}_chance_median_rank']:g})"


def _limits(flat: Mapping[str, float], name: str, form: Callable[[float], str]) -> str:
    """Return ' [low, high]'; '' for an old file, or folds' median rank, that has none."""
    if f"{name}_low" not in flat:
        return ""
    return f" [{form(flat[f'{name}_low'])}, {form(flat[f'{name}_high'])}]"


def queries_and_legend(flat: Mapping[str, float]) -> str:
    """Return the number of queries, and what the brackets of the cells hold."""
    queries = f"{int(flat['s2i_queries'])} spoken and {int(flat['i2s_queries'])} image queries; "
    if "mean_r1_low" not in flat:
        return queries + "in brackets: chance"
    return queries + "in [ ]: 95 % interval over pictures; in ( ): chance"


def align_columns(rows: list[list[str]], left: int) -> list[str]:
    """Pad the cells of a table; the first `left` columns are left-aligned, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def chance_recall(gallery: int, right: np.ndarray, k: int) -> float:
    """Return the exact R@k of a random order, averaged over the queries.

    If c of G items are right, none of them is among k random items with probability
    C(G-c, k) / C(G, k) = C(G-k, c) / C(G, c). The smaller of k and c is used as the second
    argument, which keeps the integers small.

    Args:
      gallery: G, the number of items in the gallery.
      right: int[queries], the number of right items of each query, 1 to G.
      k: at least 1; more than G counts as G.

    Returns:
      A fraction of 1.

    Example:
      >>> chance_recall(4, np.array([1]), k=1), chance_recall(4, np.array([2]), k=2)
      (0.25, 0.8333333333333334)
    """
    k = min(k, gallery)
    counts, times = np.unique(right, return_counts=True)
    total = 0.0
    for c, n in zip(counts.tolist(), times.tolist(), strict=True):
        few, many = sorted((c, k))
        ways = math.comb(gallery, few)
        total += n * ((ways - math.comb(gallery - many, few)) / ways)
    return total / len(right)


def chance_median_rank(gallery: int, right: np.ndarray) -> int:
    """Return the smallest rank that a random order reaches for at least half of the queries.

    Args:
      gallery: G, the number of items in the gallery.
      right: int[queries], the number of right items of each query, 1 to G.

    Returns:
      A rank, 1 to G.
    """
    low, high = 1, gallery
    while low < high:
        middle = (low + high) // 2
        if chance_recall(gallery, right, middle) >= 0.5:
            high = middle
        else:
            low = middle + 1
    return low


def retrieval_ranks(
    z_s: np.ndarray,
    z_i: np.ndarray,
    speech_image_ids: np.ndarray,
    image_ids: np.ndarray,
    chunk: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank each query's best right item in both directions.

    Args:
      z_s: float[Ns, E], embeddings of spoken captions.
      z_i: float[Ni, E], embeddings of images.
      speech_image_ids: int[Ns], the id of the image that each caption describes; each must occur in
        `image_ids`.
      image_ids: int[Ni]; all images of a repeated id are right.
      chunk: scores are computed in tiles of chunk x chunk, in about 20 chunk^2 bytes of memory; the
        result does not depend on it.

    Returns:
      (int[Ns], int[Ni]), ranks from 1. The rank is 0 for an image without a caption: it is in the
      gallery but is not a query.

    Raises:
      ValueError: shapes do not fit, a value is not finite, or a caption's image is missing.

    Example:
      >>> captions, images = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [3.0, 1.0]])
      >>> retrieval_ranks(captions, images, np.array([7, 8]), np.array([7, 8]))
      (array([2, 1]), array([1, 2]))
    """
    z_s, z_i, ids_s, ids_i = _check_inputs(z_s, z_i, speech_image_ids, image_ids, chunk)

    def tiles():
        for a in range(0, len(z_s), chunk):
            rows = slice(a, a + chunk)
            queries = z_s[rows].astype(np.float64)
            for c in range(0, len(z_i), chunk):
                columns = slice(c, c + chunk)
                scores = (queries @ z_i[columns].astype(np.float64).T).astype(np.float32)
                yield rows, columns, scores, ids_s[rows, None] == ids_i[None, columns]

    best_s = np.full(len(z_s), -np.inf, np.float32)
    best_i = np.full(len(z_i), -np.inf, np.float32)
    for rows, columns, scores, same in tiles():
        right = np.where(same, scores, -np.inf)
        best_s[rows] = np.maximum(best_s[rows], right.max(axis=1))
        best_i[columns] = np.maximum(best_i[columns], right.max(axis=0))

    rank_s = np.ones(len(z_s), np.int64)
    rank_i = np.ones(len(z_i), np.int64)
    for rows, columns, scores, same in tiles():
        wrong = ~same
        rank_s[rows] += (wrong & (scores >= best_s[rows, None])).sum(axis=1)
        rank_i[columns] += (wrong & (scores >= best_i[None, columns])).sum(axis=0)
    rank_i[np.isneginf(best_i)] = 0
    return rank_s, rank_i


def retrieval_metrics(
    z_s: np.ndarray,
    z_i: np.ndarray,
    speech_image_ids: np.ndarray,
    image_ids: np.ndarray,
    chunk: int = 1024,
) -> Metrics:
    """Compute R@1/5/10, median rank and chance of speech->image and image->speech.

    Args:
      z_s: float[Ns, E], embeddings of spoken captions.
      z_i: float[Ni, E], embeddings of images.
      speech_image_ids: int[Ns], the id of the image that each caption describes; each must occur in
        `image_ids`.
      image_ids: int[Ni]; all images of a repeated id are right.
      chunk: scores are computed in tiles of chunk x chunk; the result does not depend on it.

    Returns:
      `Metrics`. Images without a caption are in the gallery of speech->image, but they are neither
      queries of image->speech nor counted in captions per image.

    Raises:
      ValueError: shapes do not fit, a value is not finite, or a caption's image is missing.

    Example:
      >>> z_i = np.eye(3)
      >>> metrics = retrieval_metrics(z_i[[0, 1, 1]], z_i, np.array([0, 1, 2]), np.arange(3))
      >>> metrics.s2i.recall[0], metrics.s2i.median_rank
      (0.6666666666666666, 1.0)
    """
    ranks = retrieval_ranks(z_s, z_i, speech_image_ids, image_ids, chunk)
    return metrics_of_ranks(*ranks, speech_image_ids, image_ids)


def metrics_of_ranks(
    rank_s: np.ndarray, rank_i: np.ndarray, speech_image_ids: np.ndarray, image_ids: np.ndarray
) -> Metrics:
    """Compute the metrics of given ranks.

    Args:
      rank_s: int[Ns], the rank of each caption, from 1.
      rank_i: int[Ni], the rank of each image, from 1; 0 for an image without a caption.
      speech_image_ids: int[Ns], the id of the image that each caption describes.
      image_ids: int[Ni].
    """
    asked = rank_i > 0
    right_s = _occurrences(speech_image_ids, image_ids)
    right_i = _occurrences(np.asarray(image_ids)[asked], speech_image_ids)
    return Metrics(
        s2i=_direction(rank_s, len(rank_i), right_s, speech_image_ids),
        i2s=_direction(rank_i[asked], len(rank_s), right_i, np.asarray(image_ids)[asked]),
        captions_per_image=(int(right_i.min()), int(right_i.max())),
    )


def _direction(
    ranks: np.ndarray, gallery: int, right: np.ndarray, picture: np.ndarray
) -> Direction:
    return Direction(
        queries=len(ranks),
        gallery=gallery,
        recall=tuple(float(np.mean(ranks <= k)) for k in RECALL_AT),
        chance=tuple(chance_recall(gallery, right, k) for k in RECALL_AT),
        median_rank=float(np.median(ranks)),
        chance_median_rank=chance_median_rank(gallery, right),
        ranks=ranks,
        picture=np.asarray(picture),
    )


def _occurrences(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Count how often each of `ids` occurs in `among`."""
    among = np.sort(among)
    return np.searchsorted(among, ids, side="right") - np.searchsorted(among, ids, side="left")


def _check_inputs(z_s, z_i, ids_s, ids_i, chunk):
    """Return the first four arguments as arrays, or raise `ValueError`."""
    z_s, z_i, ids_s, ids_i = (np.asarray(x) for x in (z_s, z_i, ids_s, ids_i))
    if z_s.ndim != 2 or z_i.ndim != 2 or z_s.shape[1] != z_i.shape[1]:
        raise ValueError(f"embeddings must be [Ns, E] and [Ni, E], not {z_s.shape} and {z_i.shape}")
    if ids_s.shape != z_s.shape[:1] or ids_i.shape != z_i.shape[:1]:
        raise ValueError(
            f"ids must be one per embedding: {ids_s.shape} for {z_s.shape}, "
            f"{ids_i.shape} for {z_i.shape}"
        )
    if not len(z_s) or not len(z_i) or chunk < 1:
        raise ValueError(f"nothing to rank: {len(z_s)} captions, {len(z_i)} images, chunk {chunk}")
    # All comparisons with NaN are false, so that NaN would be ranked first.
    if not (np.isfinite(z_s).all() and np.isfinite(z_i).all()):
        raise ValueError("embeddings hold a value that is not finite")
    missing = ~np.isin(ids_s, ids_i)
    if missing.any():
        raise ValueError(
            f"{missing.sum()} captions describe an image that is not in the gallery, "
            f"first id {ids_s[missing][0]}"
        )
    return z_s, z_i, ids_s, ids_i
