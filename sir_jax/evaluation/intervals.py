"""Intervals of recalls and ranks, and tests of differences, resampled by picture.

The captions of one picture are not independent, so that pictures are drawn, each with all of its
captions. An interval is a bootstrap's (BCa: Efron, JASA 1987), which holds the truth more often
than plain percentiles do where a recall is near 0 or 1. A p-value is a randomisation test's: it
swaps the two rankings of a picture at random.

Pictures whose numbers are equal are drawn together: how often each *kind* of picture occurs in a
resample is multinomial. That is the same distribution as drawing pictures one by one, at the cost
of the kinds, of which five captions make a few dozen.

Everything is deterministic by its seed.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000

# Numbers in one piece of a resample's counts.
_PIECE = 4_000_000
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """A number of the queries, and the limits between which its truth lies at `LEVEL`."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """How much more A has than B on the same queries, with its interval and p-value."""

    value: float
    low: float
    high: float
    p_value: float  # two-sided: share of random swaps with a difference at least as large


def recall_interval(
    hits: np.ndarray, picture: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return a recall with its interval.

    Args:
      hits: bool[Q] or float[Q], whether each query's right item is among the first k. Floats may be
        a mean over runs.
      picture: int[Q], the picture that each query belongs to: of a caption the one that it
        describes, of a picture itself.
      resamples: number of resamples.
      seed: of the resampling.

    Raises:
      ValueError: there is no query, or not one picture for each.

    Example:
      >>> recall_interval(np.array([1, 1, 0, 1] * 25), np.repeat(np.arange(50), 2))
      Interval(value=0.75, low=0.68, high=0.82)
    """
    return mean_recall_interval([(hits, picture)], resamples, seed)


def mean_recall_interval(
    sides: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of several recalls with its interval, as of both directions, or of folds.

    A picture is drawn with all of its queries, those of every side.

    Args:
      sides: (hits, picture) of each recall, as `recall_interval` takes them.
      resamples: number of resamples.
      seed: of the resampling.

    Raises:
      ValueError: a side has no query, or not one picture for each.
    """
    sums, counts = _per_picture(sides)
    value = float((sums.sum(axis=0) / counts.sum(axis=0)).mean())
    if value in (0.0, 1.0):
        # No resample differs. The limit is exact for pictures that hit or miss as a whole.
        bound = ((1 - LEVEL) / 2) ** (1 / len(sums))
        return Interval(value, *((0.0, 1 - bound) if value == 0.0 else (bound, 1.0)))
    return Interval(value, *_bootstrap(sums, counts, value, resamples, seed))


def median_rank_interval(
    ranks: np.ndarray, picture: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return a median rank with its interval, of plain percentiles.

    Args:
      ranks: [Q], the rank of each query.
      picture: int[Q], see `recall_interval`.
      resamples: number of resamples.
      seed: of the resampling.

    Raises:
      ValueError: there is no query, or not one picture for each.
    """
    ranks = np.asarray(ranks)
    distinct = np.unique(ranks)

    def share(rank, strictly: bool) -> float:
        """Return the share of resamples whose median is at most `rank`."""
        sums, counts = _per_picture([(ranks <= rank, picture)])
        recall = _resampled(sums, counts, resamples, seed)
        return float((recall > 0.5 if strictly else recall >= 0.5).mean())

    def first(least: float, strictly: bool) -> float:
        """Return the lowest rank of which `share` is at least so much, by bisection."""
        low, high = 0, len(distinct) - 1
        while low < high:
            middle = (low + high) // 2
            if share(distinct[middle], strictly) >= least:
                high = middle
            else:
                low = middle + 1
        return float(distinct[low])

    tail = (1 - LEVEL) / 2
    value = float(np.median(ranks))
    # Of an even number of queries, the lower median for the lower limit and the upper one for the
    # upper limit; so the limits are ranks that occur.
    return Interval(value, first(tail, False), first(1 - tail, True))


def paired_difference(
    hits_a: np.ndarray,
    hits_b: np.ndarray,
    picture: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return the recall of A less that of B, on the same queries.

    Args:
      hits_a: [Q], as `recall_interval` takes them, of ranking A.
      hits_b: [Q], of ranking B, the same queries in the same order.
      picture: int[Q], see `recall_interval`.
      resamples: number of resamples, and of random swaps.
      seed: of both.

    Raises:
      ValueError: there is no query, or not one picture and two hits for each.
    """
    return paired_mean_difference([(hits_a, hits_b, picture)], resamples, seed)


def paired_mean_difference(
    sides: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return the mean of several paired differences, as of both directions.

    Args:
      sides: (hits of A, hits of B, picture) of each recall, as `paired_difference` takes them.
      resamples: number of resamples, and of random swaps.
      seed: of both.

    Raises:
      ValueError: a side has no query, or not one picture and two hits for each.
    """
    gains = []
    for hits_a, hits_b, picture in sides:
        hits_a, hits_b = np.asarray(hits_a, float), np.asarray(hits_b, float)
        if hits_a.shape != hits_b.shape:
            raise ValueError(f"A has {hits_a.shape} queries, B {hits_b.shape}; compare the same")
        gains.append((hits_a - hits_b, picture))
    sums, counts = _per_picture(gains)
    parts = (sums / counts.sum(axis=0)).mean(axis=1)  # of each picture in the difference
    value = float((sums.sum(axis=0) / counts.sum(axis=0)).mean())
    low, high = _bootstrap(sums, counts, value, resamples, seed)
    return Difference(value, low, high, _swapped(parts, resamples, seed))


def _per_picture(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of hits and the number of queries of each picture and side, [P, sides]."""
    sides = [(np.asarray(hits, float), np.asarray(picture)) for hits, picture in sides]
    for hits, picture in sides:
        if hits.ndim != 1 or hits.shape != picture.shape or not len(hits):
            raise ValueError(
                f"hits {hits.shape} and pictures {picture.shape} must be one each for every query, "
                "of at least one query"
            )
    pictures = np.unique(np.concatenate([picture for _, picture in sides]))
    sums, counts = np.zeros((2, len(pictures), len(sides)))
    for side, (hits, picture) in enumerate(sides):
        rows = np.searchsorted(pictures, picture)
        sums[:, side] = np.bincount(rows, hits, len(pictures))
        counts[:, side] = np.bincount(rows, minlength=len(pictures))
    return sums, counts


def _resampled(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the mean recall of resamples of the pictures, [resamples]."""
    rng, sides = np.random.default_rng(seed), sums.shape[1]
    kinds, often = np.unique(np.hstack([sums, counts]), axis=0, return_counts=True)
    step, means = max(1, _PIECE // len(kinds)), []
    for done in range(0, resamples, step):
        size = min(step, resamples - done)
        drawn = rng.multinomial(len(sums), often / len(sums), size) @ kinds
        hits, queries = drawn[:, :sides], drawn[:, sides:]
        # A fold of few pictures may be in no resample's draw.
        recall = np.divide(hits, queries, out=np.zeros_like(hits), where=queries > 0)
        means.append(recall.sum(axis=1) / (queries > 0).sum(axis=1))
    return np.concatenate(means)


def _bootstrap(
    sums: np.ndarray, counts: np.ndarray, value: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the limits of the BCa interval of a mean recall."""
    means = _resampled(sums, counts, resamples, seed)
    # Equal but for rounding counts as equal.
    below, above = (means < value - 1e-12).mean(), (means > value + 1e-12).mean()
    share = float(np.clip((below + 1 - above) / 2, 1 / resamples, 1 - 1 / resamples))
    bias = _NORMAL.inv_cdf(share)
    totals = counts.sum(axis=0)
    # What each picture moves the mean recall by.
    moved = ((sums - counts * (sums.sum(axis=0) / totals)) / totals).mean(axis=1)
    skew = float((moved**3).sum() / max(6 * (moved**2).sum() ** 1.5, 1e-300))

    def place(quantile: float) -> float:
        z = bias + _NORMAL.inv_cdf(quantile)
        return _NORMAL.cdf(bias + z / (1 - skew * z))

    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [place(tail), place(1 - tail)])
    return float(low), float(high)


def _swapped(parts: np.ndarray, resamples: int, seed: int) -> float:
    """Return the share of random sign flips of the parts whose sum is at least as far from 0."""
    rng = np.random.default_rng(seed)
    sizes, often = np.unique(np.abs(parts), return_counts=True)
    least = abs(math.fsum(parts)) * (1 - 1e-9) - 1e-12  # equal but for rounding counts as equal
    step, far = max(1, _PIECE // len(sizes)), 0
    for done in range(0, resamples, step):
        size = (min(step, resamples - done), len(sizes))
        flipped = (2 * rng.binomial(often, 0.5, size) - often) @ sizes
        far += int((np.abs(flipped) >= least).sum())
    # The pictures as they are count as one of the swaps, so that no p-value is 0.
    return (1 + far) / (1 + resamples)
