"""Exact search by inner product: the k best rows of a gallery for each query.

The score of a pair is its inner product in float64, rounded to float32; rows of equal score keep
the gallery's order. For speed, candidates are found first: a matrix product in low precision, with
a bound on its error, leaves few rows that can be among the k best. Only these are scored. So the
result does not depend on block size, number of threads, batch or the precision of the first pass.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sir_jax.errors import UserError
from sir_jax.index.engines.exact_device import DeviceGallery, device_candidates
from sir_jax.index.engines.exact_scorer import (
    GROUP,
    LONGEST,
    PRECISIONS,
    Chunk,
    ChunkScores,
    Scorer,
    cut_chunks,
    power_of_two,
)

QUERIES = 1024  # queries in a block
ROWS = 2048  # gallery rows in a chunk: its scores against a block of queries stay in the cache
FEW_QUERIES = 32  # up to this many, reading the gallery takes longer than the matrix products
FEW_QUERIES_ROWS = 4096  # gallery rows in a chunk for few queries
DEVICE_SPARE = 32  # candidates beyond k that an accelerator returns
_PAIRS = 8192  # pairs that are scored at once


class SearchResult(NamedTuple):
    """The best rows of each query, best first.

    Attributes:
      rows: int64[n, m], rows of the gallery; m is k, or the number of finite rows if that is less.
      scores: float32[n, m], their scores.
    """

    rows: np.ndarray
    scores: np.ndarray


def exact_search(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    device: str | None = None,
    precision: str | None = None,
    device_gallery: DeviceGallery | None = None,
) -> SearchResult:
    """Find the rows with the largest inner product with each query.

    Args:
      queries: float32[n, E], finite.
      gallery: float32[G, E], G from 0 up; a memory map is read piece by piece. Rows with a value
        that is not finite are ignored; vectors longer than `LONGEST` are refused.
      k: most rows per query, at least 1.
      device: 'cpu' or 'accelerator'; None for JAX's default backend.
      precision: the precision in which a CPU finds candidates, one of `PRECISIONS`; None for the
        fastest. It does not change the result.
      device_gallery: a `DeviceGallery` of `gallery`, which saves time if it is searched repeatedly
        on an accelerator.

    Returns:
      `SearchResult`, the same for every device and precision.

    Raises:
      UserError: an array has another dtype or shape, a query is not finite, or a vector is too long
        for its square to fit into float32.

    Example:
      >>> gallery = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
      >>> result = exact_search(np.array([[2, 1]], np.float32), gallery, k=2)
      >>> result.rows.tolist(), result.scores.tolist()
      ([[2, 0]], [[3.0, 2.0]])
    """
    queries, gallery = check_arrays(queries, gallery, k)
    k = int(k)  # NumPy's integers lack what is asked of it here
    if device is None:
        device = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    if not len(gallery) or not len(queries):
        return SearchResult(
            np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
        )
    if device == "accelerator" and device_gallery is None:
        device_gallery = DeviceGallery(gallery)  # shared by all blocks of queries
    parts = []
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        if device == "accelerator":
            parts.append(_search_device(block, device_gallery, k))
        else:
            parts.append(_search_cpu(block, gallery, k, precision or best_precision(len(block))))
    return SearchResult(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def check_arrays(queries, gallery, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Check the arguments of `exact_search`; return queries and gallery as arrays.

    Raises:
      UserError: an array has another dtype or shape, a query is not finite, or k is below 1.
    """
    if k < 1:
        raise UserError(f"k is {k}; give 1 or more")
    queries, gallery = np.asarray(queries), np.asarray(gallery)
    for name, array in (("queries", queries), ("gallery", gallery)):
        if array.dtype != np.float32:
            raise UserError(f"{name} are {array.dtype}; give float32 (.astype('float32'))")
        if array.ndim != 2:
            raise UserError(f"{name} have shape {array.shape}; give [rows, width]")
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"queries are {queries.shape[1]} wide, the gallery {gallery.shape[1]}; "
            "encode both with one model"
        )
    squares = np.square(queries, dtype=np.float64).sum(1)
    usable = squares < LONGEST**2
    if not usable.all():
        row = int(np.argmin(usable))
        if not np.isfinite(squares[row]):
            raise UserError(f"query {row} is not finite; leave it out")
        raise UserError(f"query {row} is longer than {LONGEST:.1e}; scale it down")
    return queries, gallery


def best_precision(queries: int) -> str:
    """Return the precision that finds candidates fastest on this CPU."""
    return "bfloat16" if queries > FEW_QUERIES and _multiplies_bfloat16() else "float32"


@functools.cache
def _multiplies_bfloat16() -> bool:
    try:
        return "_bf16" in Path("/proc/cpuinfo").read_text()  # avx512_bf16, amx_bf16
    except OSError:
        return False


def pair_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the scores float32[n] of the pairs (a[i], b[i]), a and b being float32[n, E]."""
    out = np.empty(len(a), np.float32)
    for start in range(0, len(a), _PAIRS):
        part = slice(start, start + _PAIRS)
        # Products of two float32 are exact in float64, and the order of the sum does not depend on
        # the other pairs: a pair has the same score in any batch.
        out[part] = np.multiply(a[part], b[part], dtype=np.float64).sum(1)
    return out


class _TopK:
    """The k best rows so far of each query of a block."""

    def __init__(self, queries: np.ndarray, k: int):
        self.queries = queries
        self.rows = np.full((len(queries), k), np.iinfo(np.int64).max)
        self.scores = np.full((len(queries), k), -np.inf, np.float32)
        self._waiting: list[tuple[np.ndarray, ...]] = []

    @property
    def worst(self) -> np.ndarray:
        """Return the k-th best score of each query, float32[n]; -inf if it has fewer than k."""
        return self.scores[:, -1]

    def offer(self, numbers: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Add pairs later, together with others: sorting few pairs at a time is slow."""
        self._waiting.append((numbers, rows, vectors))
        count = sum(len(numbers) for numbers, _, _ in self._waiting)
        if count >= 2 * len(self.queries) or (self.worst == -np.inf).any():
            self.flush()

    def flush(self) -> None:
        """Add all pairs that were offered."""
        if self._waiting:
            self.add(*(np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True)))
            self._waiting = []

    def add(self, numbers: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Score pairs and keep those that are among the k best of their query.

        Args:
          numbers: int[n], the number of each pair's query.
          rows: int[n], the gallery row of each pair.
          vectors: float32[n, E], the vectors of these rows.
        """
        scores = pair_scores(self.queries[numbers], vectors)
        # `>=`, not `>`: the rows of a chunk come in any order, so a row may have to replace one of
        # equal score that stands behind it in the gallery.
        keep = scores >= self.worst[numbers]
        numbers, rows, scores = numbers[keep], rows[keep], scores[keep]
        if not len(numbers):
            return
        k = self.rows.shape[1]
        touched = np.unique(numbers)
        numbers = np.concatenate([numbers, np.repeat(touched, k)])
        rows = np.concatenate([rows, self.rows[touched].ravel()])
        scores = np.concatenate([scores, self.scores[touched].ravel()])
        order = np.lexsort((rows, -scores, numbers))
        numbers, rows, scores = numbers[order], rows[order], scores[order]
        rank = np.arange(len(numbers)) - np.searchsorted(numbers, numbers)
        keep = rank < k
        self.rows[numbers[keep], rank[keep]] = rows[keep]
        self.scores[numbers[keep], rank[keep]] = scores[keep]


def _search_cpu(queries: np.ndarray, gallery: np.ndarray, k: int, precision: str) -> SearchResult:
    k = min(k, len(gallery))
    size = FEW_QUERIES_ROWS if len(queries) <= FEW_QUERIES else ROWS
    size = max(min(size, power_of_two(len(gallery))), power_of_two(4 * k), GROUP)
    top, scorer = _TopK(queries, k), Scorer(queries, precision)
    with jax.default_device(jax.devices("cpu")[0]):
        # One chunk is computed by XLA while NumPy works on the scores of the one before.
        previous: tuple | None = None
        for chunk in cut_chunks(gallery, size):
            started = chunk, scorer.level, scorer.start(chunk)
            if previous is not None:
                _add_chunk(top, scorer, *previous)
            previous = started
        _add_chunk(top, scorer, *previous)
    top.flush()
    return _result(top)


def _search_device(queries: np.ndarray, device_gallery: DeviceGallery, k: int) -> SearchResult:
    gallery = device_gallery.vectors
    k = min(k, len(gallery))
    count = min(k + DEVICE_SPARE, len(gallery))
    rows, approximate, error = device_candidates(queries, device_gallery, count)
    top = _TopK(queries, k)
    numbers, columns = np.nonzero(rows >= 0)
    for start in range(0, len(numbers), _PAIRS):
        part = slice(start, start + _PAIRS)
        part_rows = rows[numbers[part], columns[part]]
        top.add(numbers[part], part_rows, gallery[part_rows])
    # A row that is no candidate scores at most as much as the last candidate, plus the error. If
    # that reaches the k-th best score, the candidates may lack a row: search exactly.
    incomplete = (rows[:, -1] >= 0) & (rows.shape[1] < len(gallery))
    unsure = np.flatnonzero(incomplete & (approximate[:, -1] + error >= top.worst))
    if len(unsure):
        exact = _search_cpu(queries[unsure], gallery, k, "float32")
        count = exact.rows.shape[1]
        top.rows[unsure, :count], top.scores[unsure, :count] = exact
    return _result(top)


def _result(top: _TopK) -> SearchResult:
    """Drop the columns beyond the number of finite rows, which is the same for all queries."""
    count = int((top.scores[0] > -np.inf).sum())
    return SearchResult(top.rows[:, :count], top.scores[:, :count])


def _add_chunk(top: _TopK, scorer: Scorer, chunk: Chunk, level: int, started) -> None:
    """Add the candidates of a chunk; raise the precision if there are too many of them."""
    while True:
        scores = scorer.finish(chunk, level, started)
        floor = top.worst
        if (floor == -np.inf).any():
            floor = np.maximum(floor, _kth_best_score(top, scores, chunk))
        # The subtraction may round up by half a unit in the last place; one step down undoes it.
        threshold = np.nextafter(floor - scores.error, -np.inf, dtype=scores.values.dtype)
        numbers, rows = _candidates(scores, threshold)
        many = len(numbers) > scores.values.size // 64 and (floor > -np.inf).all()
        if not many or level == len(PRECISIONS) - 1:
            break
        level += 1
        scorer.level = max(scorer.level, level)
        started = scorer.start(chunk, level)
    for start in range(0, len(numbers), _PAIRS):
        part = slice(start, start + _PAIRS)
        top.offer(numbers[part], chunk.start + rows[part], chunk.rows[rows[part]])


def _kth_best_score(top: _TopK, scores: ChunkScores, chunk: Chunk) -> np.ndarray:
    """Return for each query a score that k rows of the chunk reach; -inf if it has fewer rows."""
    n, k = top.rows.shape
    if chunk.valid < k:
        return np.full(n, -np.inf, np.float32)
    best_rows = np.argpartition(scores.values, -k, axis=0)[-k:]
    lowest = np.full(n, np.inf, np.float32)
    for rows in best_rows:
        exact = pair_scores(top.queries, chunk.rows[rows])
        usable = scores.values[rows, np.arange(n)] > -np.inf
        lowest = np.minimum(lowest, np.where(usable, exact, -np.inf))
    return lowest


def _candidates(scores: ChunkScores, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (numbers of queries, rows of the chunk) of the values above each query's threshold."""
    groups, numbers = np.divmod(np.flatnonzero(scores.peaks > threshold), len(threshold))
    values = scores.values.reshape(-1, GROUP, len(threshold))[groups, :, numbers]
    hits, rows = np.nonzero(values > threshold[numbers, None])
    return numbers[hits], groups[hits] * GROUP + rows
