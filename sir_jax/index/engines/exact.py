"""Exact search by inner product: the k best rows of a gallery for each query.

The score of a pair is its inner product in float64, rounded to float32; equal scores keep the
gallery's order. So a result depends on no block size, thread count, batch or precision of what
finds the candidates: matrix products in a low precision, each with a bound on how far it can be
off, leave few pairs that could still be among the best, and only those are scored.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.errors import UserError
from sir_jax.index.engines.exact_device import DeviceGallery, device_candidates

QUERIES = 1024  # of a block
GROUP = 32  # gallery rows that are passed over together
ROWS = 2048  # of a chunk: its scores against a block of queries stay in the cache
FEW_QUERIES_ROWS = 4096
FEW_QUERIES = 32  # up to here the time goes into reading the gallery, not into products
DEVICE_SPARE = 32  # candidates beyond k that an accelerator returns
_PAIRS = 8192  # scored at once
# Each is taken where the one before leaves too many candidates (nearly equal vectors).
PRECISIONS = ("bfloat16", "float32", "float64")


class Found(NamedTuple):
    """What a search found, best first.

    Attributes:
      rows: int64[n, m] of the gallery; m is k, or the number of rows that can be found if smaller.
      scores: float32[n, m].
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
    placed: DeviceGallery | None = None,
) -> Found:
    """Find the rows of the largest inner product with each query.

    Args:
      queries: float32[n, E], finite.
      gallery: float32[G, E], G from 0 up; a memory map is read piece by piece. A row that is not
        finite is never found.
      k: results per query, 1 or more.
      device: 'cpu' or 'accelerator'; None for what JAX computes on.
      precision: what candidates are found in on a CPU, one of `PRECISIONS`; None for the
        fastest. It does not change the result.
      placed: of this gallery, where it is searched more than once on an accelerator.

    Returns:
      `Found`, the same for every device and precision.

    Raises:
      UserError: an array has another dtype or shape, or a query is not finite.
    """
    queries, gallery = check_arrays(queries, gallery, k)
    if device is None:
        device = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    if not len(gallery) or not len(queries):
        return Found(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
    if device == "accelerator" and placed is None:
        placed = DeviceGallery(gallery)  # of several blocks of queries
    parts = []
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        if device == "accelerator":
            parts.append(_search_device(block, placed, k))
        else:
            parts.append(_search_cpu(block, gallery, k, precision or best_precision(len(block))))
    return Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def check_arrays(queries, gallery, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays.

    Raises:
      UserError: see `exact_search`.
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
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.square(queries).sum(1))
    if not finite.all():
        raise UserError(f"query {int(np.argmin(finite))} is not finite; leave it out")
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
    """Return the scores of pairs: float32[n] of float32[n, E] and float32[n, E]."""
    out = np.empty(len(a), np.float32)
    for start in range(0, len(a), _PAIRS):
        part = slice(start, start + _PAIRS)
        # A product of two float32 is exact in float64; each row is summed by itself.
        out[part] = np.multiply(a[part], b[part], dtype=np.float64).sum(1)
    return out


class _Best:
    """The best rows so far of each query of a block."""

    def __init__(self, queries: np.ndarray, k: int):
        self.queries = queries
        self.rows = np.full((len(queries), k), np.iinfo(np.int64).max)
        self.scores = np.full((len(queries), k), -np.inf, np.float32)
        self._waiting: list[tuple[np.ndarray, ...]] = []

    @property
    def worst(self) -> np.ndarray:
        """Return float32[n], what a later row must exceed; -inf while there are fewer than k."""
        return self.scores[:, -1]

    def offer(self, who: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Take pairs as `add` does, but when there are some: to sort few at a time is slow."""
        self._waiting.append((who, rows, vectors))
        count = sum(len(who) for who, _, _ in self._waiting)
        if count >= 2 * len(self.queries) or (self.worst == -np.inf).any():
            self.flush()

    def flush(self) -> None:
        """Add all that was offered."""
        if self._waiting:
            self.add(*(np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True)))
            self._waiting = []

    def add(self, who: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Score pairs and keep those that are among the best.

        Args:
          who: int[n], queries.
          rows: int[n], of the gallery.
          vectors: float32[n, E], of these rows.
        """
        scores = pair_scores(self.queries[who], vectors)
        # Rows come chunk by chunk, but of one chunk in no order: equal ones must stay.
        keep = scores >= self.worst[who]
        who, rows, scores = who[keep], rows[keep], scores[keep]
        if not len(who):
            return
        k = self.rows.shape[1]
        touched = np.unique(who)
        who = np.concatenate([who, np.repeat(touched, k)])
        rows = np.concatenate([rows, self.rows[touched].ravel()])
        scores = np.concatenate([scores, self.scores[touched].ravel()])
        order = np.lexsort((rows, -scores, who))
        who, rows, scores = who[order], rows[order], scores[order]
        rank = np.arange(len(who)) - np.searchsorted(who, who)
        keep = rank < k
        self.rows[who[keep], rank[keep]] = rows[keep]
        self.scores[who[keep], rank[keep]] = scores[keep]


class _Chunk(NamedTuple):
    """Consecutive rows of the gallery.

    Attributes:
      start: its first row.
      rows: float32[C, E], the last chunk filled with zeros.
      valid: how many are of the gallery.
    """

    start: int
    rows: np.ndarray
    valid: int


class _Scores(NamedTuple):
    """Approximate scores of a chunk.

    Attributes:
      values: [C, n]; -inf for a row that is not to be found.
      peaks: [C / GROUP, n], the largest of each group of rows.
      error: [n], the furthest that a value can be from the score.
    """

    values: np.ndarray
    peaks: np.ndarray
    error: np.ndarray


def _chunks(gallery: np.ndarray, size: int) -> Iterator[_Chunk]:
    for start in range(0, len(gallery), size):
        rows = np.ascontiguousarray(gallery[start : start + size])
        valid = len(rows)
        if valid < size:
            rows = np.concatenate([rows, np.zeros((size - valid, rows.shape[1]), np.float32)])
        yield _Chunk(start, rows, valid)


def _search_cpu(queries: np.ndarray, gallery: np.ndarray, k: int, precision: str) -> Found:
    k = min(k, len(gallery))
    size = FEW_QUERIES_ROWS if len(queries) <= FEW_QUERIES else ROWS
    size = max(min(size, _power_of_two(len(gallery))), _power_of_two(4 * k), GROUP)
    best, scorer = _Best(queries, k), _Scorer(queries, precision)
    with jax.default_device(jax.devices("cpu")[0]):
        waiting: tuple | None = None
        for chunk in _chunks(gallery, size):
            started = chunk, scorer.level, scorer.start(chunk)
            if waiting is not None:
                _take(best, scorer, *waiting)
            waiting = started
        _take(best, scorer, *waiting)
    best.flush()
    found = int((best.scores[0] > -np.inf).sum())  # finite rows: of all queries the same
    return Found(best.rows[:, :found], best.scores[:, :found])


def _search_device(queries: np.ndarray, placed: DeviceGallery, k: int) -> Found:
    gallery = placed.vectors
    k = min(k, len(gallery))
    rows, near, error = device_candidates(queries, placed, min(k + DEVICE_SPARE, len(gallery)))
    best = _Best(queries, k)
    who, column = np.nonzero(rows >= 0)
    for start in range(0, len(who), _PAIRS):
        part = slice(start, start + _PAIRS)
        wanted = rows[who[part], column[part]]
        best.add(who[part], wanted, gallery[wanted])
    # What was left out, if anything, scores no more than the last candidate and the error.
    left_out = (rows[:, -1] >= 0) & (rows.shape[1] < len(gallery))
    unsure = np.flatnonzero(left_out & (near[:, -1] + error >= best.worst))
    found = int((best.scores[0] > -np.inf).sum())
    if len(unsure):
        again = _search_cpu(queries[unsure], gallery, k, "float32")
        best.rows[unsure, :found], best.scores[unsure, :found] = again
    return Found(best.rows[:, :found], best.scores[:, :found])


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _take(best: _Best, scorer: "_Scorer", chunk: _Chunk, level: int, started) -> None:
    """Add what a chunk has to the best so far."""
    while True:
        scores = scorer.finish(chunk, level, started)
        floor = best.worst
        if (floor == -np.inf).any():
            floor = np.maximum(floor, _floor(best, scores, chunk))
        # Rounding down twice is rounding far enough.
        need = np.nextafter(floor - scores.error, -np.inf, dtype=scores.values.dtype)
        who, rows = _candidates(scores, need)
        many = len(who) > scores.values.size // 64 and (floor > -np.inf).all()
        if not many or level == len(PRECISIONS) - 1:
            break
        level += 1
        scorer.level = max(scorer.level, level)
        started = scorer.start(chunk, level)
    for start in range(0, len(who), _PAIRS):
        part = slice(start, start + _PAIRS)
        best.offer(who[part], chunk.start + rows[part], chunk.rows[rows[part]])


def _floor(best: _Best, scores: _Scores, chunk: _Chunk) -> np.ndarray:
    """Return for each query a score that k rows of the chunk reach; -inf where it has fewer."""
    n, k = best.rows.shape
    if chunk.valid < k:
        return np.full(n, -np.inf, np.float32)
    rows = np.argpartition(scores.values, -k, axis=0)[-k:]
    lowest = np.full(n, np.inf, np.float32)
    for each in rows:
        reached = pair_scores(best.queries, chunk.rows[each])
        found = scores.values[each, np.arange(n)] > -np.inf
        lowest = np.minimum(lowest, np.where(found, reached, -np.inf))
    return lowest


def _candidates(scores: _Scores, need: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (queries, rows of the chunk) of the values above what each query needs."""
    groups, who = np.divmod(np.flatnonzero(scores.peaks > need), len(need))
    values = scores.values.reshape(-1, GROUP, len(need))[groups, :, who]
    hits, rows = np.nonzero(values > need[who, None])
    return who[hits], groups[hits] * GROUP + rows


class _Scorer:
    """Approximate scores of chunks against a block of queries."""

    def __init__(self, queries: np.ndarray, precision: str):
        self.level = PRECISIONS.index(precision)
        self._exact = queries.astype(np.float64)
        self._norms = np.linalg.norm(self._exact, axis=1)
        # Powers of two: few programs are compiled.
        filled = np.zeros((_power_of_two(len(queries)), queries.shape[1]), np.float32)
        filled[: len(queries)] = queries
        rounded = np.asarray(_rounded(filled))[: len(queries)]
        self._off = np.linalg.norm(self._exact - rounded, axis=1)
        self._queries = {dtype: jnp.asarray(filled, dtype) for dtype in PRECISIONS[:2]}

    def start(self, chunk: _Chunk, level: int | None = None):
        """Begin to score a chunk; returns what `finish` is given."""
        dtype = PRECISIONS[self.level if level is None else level]
        if dtype == "float64":
            return None
        return _score(self._queries[dtype], chunk.rows, dtype)

    def finish(self, chunk: _Chunk, level: int, started) -> _Scores:
        """Wait for the scores of a chunk."""
        if PRECISIONS[level] == "float64":
            return self._finish_float64(chunk)
        values, peaks, norm, off = (np.asarray(x) for x in started)
        n = len(self._norms)
        values, peaks = values[:, :n], peaks[:, :n]
        if chunk.valid < len(chunk.rows) or not np.isfinite(norm):
            good = _good_rows(chunk)
            values = np.where(good[:, None], values, -np.inf)
            peaks = values.reshape(-1, GROUP, n).max(1)
            norm, off = np.sqrt(_squares(chunk.rows[good]).max(initial=0)), norm * 0
            if PRECISIONS[level] == "bfloat16":
                rest = chunk.rows[good] - np.asarray(_rounded(chunk.rows))[good]
                off = np.sqrt(_squares(rest).max(initial=0))
        norm, off = float(norm) * (1 + 1e-5), float(off) * (1 + 1e-5)
        width = self._exact.shape[1]
        error = self._norms * norm * (width + 2) * 2.0**-23  # of the sum: twice the textbook's
        if PRECISIONS[level] == "bfloat16":
            error += (self._norms + self._off) * off + self._off * norm
        return _Scores(values, peaks, error.astype(np.float32))

    def _finish_float64(self, chunk: _Chunk) -> _Scores:
        good = _good_rows(chunk)
        rows = np.where(good[:, None], chunk.rows, 0).astype(np.float64)
        values = rows @ self._exact.T
        norm = np.sqrt(np.square(rows).sum(1).max())
        error = self._norms * norm * (rows.shape[1] + 2) * 2.0**-52
        # A later row of an equal score is not better: compare what the scores are rounded to.
        values = (values + error).astype(np.float32)
        values[~good] = -np.inf
        peaks = values.reshape(-1, GROUP, len(error)).max(1)
        return _Scores(values, peaks, np.zeros(len(error), np.float32))


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.square(rows, dtype=np.float64).sum(1)


def _good_rows(chunk: _Chunk) -> np.ndarray:
    """Return bool[C]: of the gallery, and of a length that float32 can hold."""
    good = _squares(chunk.rows) < np.finfo(np.float32).max / 4
    good[chunk.valid :] = False
    return good


@jax.jit
def _rounded(x):
    # Not astype there and back, which XLA may leave out.
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


@functools.partial(jax.jit, static_argnames="dtype")
def _score(queries, rows, dtype: str):
    """Return scores [C, n], peaks [C / GROUP, n], the largest norm of a row and of its rounding."""
    values = jnp.einsum(
        "ce,ne->cn",
        rows.astype(dtype),
        queries,
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if dtype == "float32" else None,
    )
    peaks = values.reshape(-1, GROUP, values.shape[1]).max(1)
    norm = jnp.sqrt(jnp.square(rows).sum(1).max())
    off = jnp.sqrt(jnp.square(rows - _rounded(rows)).sum(1).max())
    return values, peaks, norm, off if dtype == "bfloat16" else jnp.zeros_like(off)
