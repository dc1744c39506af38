"""Approximate scores of gallery chunks on the CPU, with bounds on their error.

`exact` uses them to rule out rows that cannot be among the best.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.errors import UserError

# Longer vectors are refused: the squares of two of them, and so their scores, fit into float32.
LONGEST = float(np.sqrt(np.finfo(np.float32).max / 4))
# What float32 loses of a product or a square where it gets too small for it, with a margin:
# accelerators multiply in several parts, each of which can get too small.
LOST = 2.0**-120
GROUP = 32  # gallery rows that are ruled out together by the largest of their scores
# A later precision is used if the earlier one leaves too many candidates (nearly equal vectors).
PRECISIONS = ("bfloat16", "float32", "float64")


class Chunk(NamedTuple):
    """Consecutive rows of the gallery.

    Attributes:
      start: the number of its first row in the gallery.
      rows: float32[C, E]; the last chunk is padded with zeros.
      valid: how many of the rows are not padding.
    """

    start: int
    rows: np.ndarray
    valid: int


class ChunkScores(NamedTuple):
    """Approximate scores of a chunk.

    Attributes:
      values: [C, n]; -inf for padding and for rows that are not finite.
      peaks: [C / GROUP, n], the largest value of each group of rows.
      error: [n], a bound on the difference of a value and the exact score.
    """

    values: np.ndarray
    peaks: np.ndarray
    error: np.ndarray


def cut_chunks(gallery: np.ndarray, size: int) -> Iterator[Chunk]:
    """Yield the chunks of a gallery, each of `size` rows."""
    for start in range(0, len(gallery), size):
        rows = np.ascontiguousarray(gallery[start : start + size])
        valid = len(rows)
        if valid < size:
            rows = np.concatenate([rows, np.zeros((size - valid, rows.shape[1]), np.float32)])
        yield Chunk(start, rows, valid)


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()


class Scorer:
    """Compute the approximate scores of chunks for a block of queries.

    Attributes:
      level: index into `PRECISIONS` of the precision that the next chunk is scored in.
    """

    def __init__(self, queries: np.ndarray, precision: str):
        """Hold queries, float32[n, E], and begin with a precision of `PRECISIONS`."""
        self.level = PRECISIONS.index(precision)
        self._exact = queries.astype(np.float64)
        self._norms = np.linalg.norm(self._exact, axis=1)
        # Padded to a power of two, so that few programs are compiled.
        padded = np.zeros((power_of_two(len(queries)), queries.shape[1]), np.float32)
        padded[: len(queries)] = queries
        rounded = np.asarray(_round_to_bfloat16(padded))[: len(queries)]
        self._rounding = np.linalg.norm(self._exact - rounded, axis=1)
        self._queries = {dtype: jnp.asarray(padded, dtype) for dtype in PRECISIONS[:2]}

    def start(self, chunk: Chunk, level: int | None = None):
        """Start the computation of a chunk's scores; returns the argument `started` of `finish`."""
        dtype = PRECISIONS[self.level if level is None else level]
        if dtype == "float64":
            return None
        return _score(self._queries[dtype], chunk.rows, dtype)

    def finish(self, chunk: Chunk, level: int, started) -> ChunkScores:
        """Wait for the scores of a chunk and bound their error."""
        if PRECISIONS[level] == "float64":
            return self._finish_float64(chunk)
        values, peaks, norm, rounding = (np.asarray(x) for x in started)
        n = len(self._norms)
        values, peaks = values[:, :n], peaks[:, :n]
        if chunk.valid < len(chunk.rows) or not norm < LONGEST:
            usable = _usable_rows(chunk)
            values = np.where(usable[:, None], values, -np.inf)
            peaks = values.reshape(-1, GROUP, n).max(1)
            norm, rounding = np.sqrt(_squares(chunk.rows[usable]).max(initial=0)), 0.0
            if PRECISIONS[level] == "bfloat16":
                rest = chunk.rows[usable] - np.asarray(_round_to_bfloat16(chunk.rows))[usable]
                rounding = np.sqrt(_squares(rest).max(initial=0))
        width = self._exact.shape[1]
        norm, rounding = longest(norm, width), longest(rounding, width)
        error = product_error(self._norms, norm, width, 2.0**-23)
        if PRECISIONS[level] == "bfloat16":
            error += (self._norms + self._rounding) * rounding + self._rounding * norm
        return ChunkScores(values, peaks, error.astype(np.float32))

    def _finish_float64(self, chunk: Chunk) -> ChunkScores:
        usable = _usable_rows(chunk)
        rows = np.where(usable[:, None], chunk.rows, 0).astype(np.float64)
        values = rows @ self._exact.T
        norm = np.sqrt(np.square(rows).sum(1).max())
        error = self._norms * norm * (rows.shape[1] + 2) * 2.0**-52
        # The error is added here and the sum rounded to float32, as scores are: then a later row
        # whose score rounds to the k-th best one is no candidate.
        values = (values + error).astype(np.float32)
        values[~usable] = -np.inf
        peaks = values.reshape(-1, GROUP, len(error)).max(1)
        return ChunkScores(values, peaks, np.zeros(len(error), np.float32))


def longest(norm, width: int) -> float:
    """Return a bound on the length of vectors whose largest float32 length is `norm`."""
    # The root is monotone: of squares that got too small for float32, no length was left.
    return float(np.sqrt(np.square(np.float64(norm)) + width * LOST)) * (1 + 1e-5)


def product_error(norms: np.ndarray, norm: float, width: int, unit: float) -> np.ndarray:
    """Return a bound on the error of products of vectors in float32.

    Args:
      norms: lengths of the vectors on one side, [n].
      norm: largest length on the other side.
      width: of the vectors.
      unit: relative error of one operation; twice its value leaves a margin.

    Returns:
      float64[n].
    """
    return norms * norm * (width + 2) * unit + width * LOST * (1 + norms + norm)


def check_length(rows: np.ndarray, start: int) -> None:
    """Refuse finite vectors whose squares overflow: their scores cannot be compared.

    Args:
      rows: float32[C, E], rows of the gallery.
      start: the number of the first of them.

    Raises:
      UserError: naming the first such row.
    """
    squares = _squares(rows)
    long = np.isfinite(squares) & (squares >= LONGEST**2)
    if long.any():
        raise UserError(
            f"row {start + int(np.argmax(long))} of the gallery is longer than {LONGEST:.1e}; "
            "scale the vectors down"
        )


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.square(rows, dtype=np.float64).sum(1)


def _usable_rows(chunk: Chunk) -> np.ndarray:
    """Return bool[C]: False for padding and for rows that are not finite."""
    check_length(chunk.rows, chunk.start)
    usable = np.isfinite(chunk.rows).all(1)
    usable[chunk.valid :] = False
    return usable


@jax.jit
def _round_to_bfloat16(x):
    # Not `astype` to bfloat16 and back: XLA may remove such a pair.
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


@functools.partial(jax.jit, static_argnames="dtype")
def _score(queries, rows, dtype: str):
    """Return scores [C, n], peaks [C / GROUP, n], largest norm and largest rounding of a row."""
    values = jnp.einsum(
        "ce,ne->cn",
        rows.astype(dtype),
        queries,
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if dtype == "float32" else None,
    )
    peaks = values.reshape(-1, GROUP, values.shape[1]).max(1)
    norm = jnp.sqrt(jnp.square(rows).sum(1).max())
    rounding = jnp.sqrt(jnp.square(rows - _round_to_bfloat16(rows)).sum(1).max())
    return values, peaks, norm, rounding if dtype == "bfloat16" else jnp.zeros_like(rounding)
