"""Approximate search of large galleries with FAISS, which may miss a few of the best rows.

The way 'auto' searches a gallery

- of up to `EXACT_UP_TO` vectors exactly;
- of more vectors by an inverted file (IVF) over uncompressed vectors. It is built in minutes and
  takes as much memory as the vectors. The number of lists that it reads per query is the smallest
  power of two that finds the share `RECALL` of the best rows, measured on sample queries.

The way 'hnsw' answers single queries faster, but takes far longer to build and up to twice the
memory of the vectors.

The rows that FAISS returns are scored as in an exact search, so scores do not depend on the way.
"""

import math
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index.engines import WAYS
from sir_jax.index.engines.exact import SearchResult, check_arrays, exact_search, pair_scores
from sir_jax.runtime.files import whole_file

EXACT_UP_TO = 1_000_000
RECALL = 0.95
SAMPLES = 256  # sample queries that measure the recall
FEWEST_SAMPLES = 64  # with fewer sample queries than this, rows of the gallery are used
SAMPLE_K = 10  # the recall is that of the 10 best rows
_TRAIN_ROWS = 64  # vectors per list that train the lists' centres
_HNSW_LINKS, _HNSW_BUILD = 32, 200


def choose_way(rows: int, way: str = "auto") -> str:
    """Return the way to search a gallery: 'exact', 'ivf' or 'hnsw'.

    Args:
      rows: number of vectors in the gallery.
      way: one of `WAYS`; 'auto' chooses by the number of vectors.

    Raises:
      UserError: `way` is none of `WAYS`.
    """
    if way not in WAYS:
        raise UserError(f"way of search {way!r} is none of {', '.join(WAYS)}")
    if way != "auto":
        return way
    return "exact" if rows <= EXACT_UP_TO else "ivf"


def import_faiss():
    """Import FAISS.

    Raises:
      UserError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"FAISS is needed here ({error}); pip install 'sir_jax[faiss]', or search exactly"
        ) from None
    return faiss


def recall_of(rows: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of the best rows that a search returned.

    Args:
      rows: int[n, a], the returned rows of each query.
      exact: int[n, b], the best rows of each query.

    Returns:
      0 to 1, the mean over queries; 1 if `exact` is empty.

    Example:
      >>> recall_of(np.array([[7, 3, 9]]), np.array([[3, 4]]))
      0.5
    """
    if not exact.size:
        return 1.0
    return float((exact[:, :, None] == rows[:, None, :]).any(2).mean())


class FaissSearch:
    """A FAISS index of vectors, which are kept beside it to compute exact scores.

    Attributes:
      way: 'ivf' or 'hnsw'.
      recall: share of the `SAMPLE_K` best rows that it returned for sample queries when built.
    """

    def __init__(self, vectors: np.ndarray, index, way: str, recall: float):
        """Use `build` or `load` instead."""
        self.vectors, self.way, self.recall = vectors, way, recall
        self._index = index

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        way: str = "ivf",
        *,
        samples: np.ndarray | None = None,
        recall: float = RECALL,
    ) -> "FaissSearch":
        """Build an index and choose how thoroughly it searches.

        Args:
          vectors: float32[G, E], finite, G from 1 up; kept to compute exact scores.
          way: 'ivf' or 'hnsw'.
          samples: float32[n, E], typical queries, such as vectors of recordings for a gallery of
            pictures. If there are fewer than `FEWEST_SAMPLES`, rows of the gallery are used, whose
            neighbours are easier to find.
          recall: the share of the best rows to find at least. If even the most thorough search
            finds less (HNSW may), that search is used; the attribute `recall` holds its share.

        Raises:
          UserError: FAISS is not installed.
        """
        faiss = import_faiss()
        if samples is None or len(samples) < FEWEST_SAMPLES:
            samples = vectors
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.permutation(len(samples))[:SAMPLES])
        queries = np.ascontiguousarray(samples[chosen])
        index = _build_ivf(faiss, vectors) if way == "ivf" else _build_hnsw(faiss, vectors)
        search = cls(vectors, index, way, 0.0)
        search._tune(queries, recall)
        return search

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        """Find rows with a large inner product with each query.

        Args:
          queries: float32[n, E], finite.
          k: most rows per query, at least 1.

        Returns:
          `SearchResult`. If the lists of a query hold fewer than k vectors, all queries are
          searched exactly instead.

        Raises:
          UserError: an array has another dtype or shape, or a query is not finite.
        """
        queries, _ = check_arrays(queries, self.vectors, k)
        k = min(int(k), len(self.vectors))
        _, rows = self._index.search(np.ascontiguousarray(queries), k)
        if (rows < 0).any():
            return exact_search(queries, self.vectors, k)
        repeated = np.repeat(queries, k, axis=0)
        scores = pair_scores(repeated, self.vectors[rows.ravel()]).reshape(rows.shape)
        order = np.lexsort((rows, -scores), axis=1)
        return SearchResult(
            np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        )

    def save(self, path: Path) -> None:
        """Write the index; an interrupt leaves the old file or the new one."""
        with whole_file(path) as part:
            import_faiss().write_index(self._index, str(part))

    @classmethod
    def load(cls, path: Path, vectors: np.ndarray, way: str, recall: float) -> "FaissSearch":
        """Read an index that `save` wrote.

        Args:
          path: the file.
          vectors: float32[G, E], the vectors that the index was built from.
          way: the attribute `way` of the saved index.
          recall: the attribute `recall` of the saved index.

        Raises:
          UserError: FAISS is not installed, or the file is damaged or of other vectors.
        """
        faiss = import_faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise UserError(f"{path} cannot be read ({reason}); build it again") from None
        if (index.ntotal, index.d) != vectors.shape:
            raise UserError(
                f"{path} is of {index.ntotal:,} vectors of width {index.d}, not of "
                f"{len(vectors):,} of {vectors.shape[1]}; build it again"
            )
        return cls(vectors, index, way, recall)

    def _tune(self, queries: np.ndarray, target: float) -> None:
        """Double the search effort until the recall reaches the target."""
        k = min(SAMPLE_K, len(self.vectors))
        exact = exact_search(queries, self.vectors, k).rows
        most = self._index.nlist if self.way == "ivf" else 4096
        effort = 1 if self.way == "ivf" else 16
        while True:
            if self.way == "ivf":
                self._index.nprobe = effort
            else:
                self._index.hnsw.efSearch = effort
            self.recall = recall_of(self._index.search(queries, k)[1], exact)
            if self.recall >= target or effort >= most:
                return
            effort *= 2


def _build_ivf(faiss, vectors: np.ndarray):
    count, width = vectors.shape
    # A query is compared with the centres of all lists and with the vectors of some lists. The sum
    # is smallest if the number of lists grows as the square root of the number of vectors.
    lists = 1 << max(0, round(math.log2(4 * math.sqrt(count))))
    lists = max(1, min(lists, count // 8))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(count)[: _TRAIN_ROWS * lists])
    index.cp.min_points_per_centroid = 1  # otherwise FAISS prints warnings
    index.train(np.ascontiguousarray(vectors[rows]))
    _add(index, vectors)
    return index


def _build_hnsw(faiss, vectors: np.ndarray):
    index = faiss.IndexHNSWFlat(vectors.shape[1], _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _HNSW_BUILD
    _add(index, vectors)
    return index


def _add(index, vectors: np.ndarray, size: int = 65_536) -> None:
    for start in range(0, len(vectors), size):
        index.add(np.ascontiguousarray(vectors[start : start + size]))
