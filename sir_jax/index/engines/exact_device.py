"""Find the candidates of an exact search on an accelerator.

One program processes each chunk of the gallery: a matrix product, the largest score of each group
of rows, the best groups, and the best rows of these groups. No row is lost, because the k best rows
of a chunk lie in its k best groups; and `top_k`, which is slow, gets few numbers.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.index.engines.exact_scorer import LONGEST, check_length, longest, product_error

ROWS = 131_072  # gallery rows in a chunk
GROUP = 128  # gallery rows in a group


class DeviceGallery:
    """A gallery cut into chunks; as many as fit stay on the accelerator between searches."""

    def __init__(self, vectors: np.ndarray, budget: int | None = None):
        """Set the size of the chunks; they are sent to the accelerator by the first search.

        Args:
          vectors: float32[G, E], G from 1 up; must not change.
          budget: bytes that may stay on the accelerator; None for half of its free memory.
        """
        self.vectors = vectors
        self._size = max(min(ROWS, -(-len(vectors) // GROUP) * GROUP), GROUP)
        self._budget = _half_of_free() if budget is None else budget
        self._kept: dict[int, jax.Array] = {}

    def __iter__(self) -> Iterator[tuple[int, jax.Array]]:
        """Yield (first row, float32[C, E]) of each chunk; the last chunk is padded with NaN."""
        for start in range(0, len(self.vectors), self._size):
            if start in self._kept:
                yield start, self._kept[start]
                continue
            part = np.ascontiguousarray(self.vectors[start : start + self._size])
            if len(part) < self._size:
                # NaN, because the search ignores such rows.
                padding = np.full((self._size - len(part), part.shape[1]), np.nan, np.float32)
                part = np.concatenate([part, padding])
            on_device = jnp.array(part)
            if on_device.nbytes <= self._budget:
                self._budget -= on_device.nbytes
                self._kept[start] = on_device
            yield start, on_device


def _half_of_free() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return max(0, stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)) // 2


def device_candidates(
    queries: np.ndarray, gallery: DeviceGallery, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find candidates by approximate scores.

    Args:
      queries: float32[n, E].
      gallery: the gallery to search.
      count: candidates per query.

    Returns:
      (rows int64[n, count], -1 if there are fewer; approximate scores float32[n, count], largest
      first; a bound on their error, float32[n]).
    """
    padded = np.zeros((1 << (len(queries) - 1).bit_length(), queries.shape[1]), np.float32)
    padded[: len(queries)] = queries
    z_q = jnp.asarray(padded)
    rows = jnp.full((len(padded), count), -1, jnp.int32)
    scores = jnp.full((len(padded), count), -jnp.inf, jnp.float32)
    norm = jnp.zeros((), jnp.float32)
    for start, part in gallery:
        rows, scores, norm = _merge(z_q, part, start, rows, scores, norm)
    if not np.isfinite(norm):
        for start in range(0, len(gallery.vectors), ROWS):
            check_length(gallery.vectors[start : start + ROWS], start)
    n, width = queries.shape
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    error = product_error(norms, longest(norm, width), width, 2.0**-22)
    return np.asarray(rows[:n], np.int64), np.asarray(scores[:n]), error.astype(np.float32)


@functools.partial(jax.jit, donate_argnums=(3, 4))
def _merge(queries, part, start, rows, scores, norm):
    """Merge the best rows of one more chunk into the best rows so far."""
    squares = jnp.square(part).sum(1)
    finite = jnp.isfinite(part).all(1)
    usable = finite & (squares < LONGEST**2)
    part = jnp.where(usable[:, None], part, 0)
    values = jnp.einsum("ne,ce->nc", queries, part, precision=jax.lax.Precision.HIGHEST)
    values = jnp.where(usable, values, -jnp.inf)
    n, count = rows.shape
    grouped = values.reshape(n, -1, GROUP)
    _, groups = jax.lax.top_k(grouped.max(-1), min(count, grouped.shape[1]))
    inside = jnp.take_along_axis(grouped, groups[:, :, None], 1).reshape(n, -1)
    inside_rows = start + groups[:, :, None] * GROUP + jnp.arange(GROUP)
    scores = jnp.concatenate([scores, inside], 1)
    rows = jnp.concatenate([rows, inside_rows.reshape(n, -1).astype(jnp.int32)], 1)
    scores, order = jax.lax.top_k(scores, count)
    rows = jnp.take_along_axis(rows, order, 1)
    rows = jnp.where(scores > -jnp.inf, rows, -1)
    # A finite row that is too long makes it infinite.
    norm = jnp.maximum(norm, jnp.sqrt(jnp.where(finite, squares, 0).max()))
    norm = jnp.where(norm < LONGEST, norm, jnp.inf)
    return rows, scores, norm
