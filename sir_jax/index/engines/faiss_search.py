"""Search of large galleries through FAISS, which may miss a few of the best.

Which way a gallery is searched, unless one is asked for by name:

- up to `EXACT_UP_TO` vectors: exactly;
- above: an inverted file (IVF) over uncompressed vectors. It is built in minutes, takes as much
  memory as the vectors, and takes more of them at any time. The number of lists it looks into per
  query is the smallest power of two that finds `RECALL` of what an exact search finds, measured on
  sample queries.

HNSW, on request, answers single queries sooner, but takes far longer to build and up to twice the
memory of the vectors.

What FAISS returns is scored again as an exact search would, so scores do not depend on the way.
"""

import math
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index.engines import WAYS
from sir_jax.index.engines.exact import Found, check_arrays, exact_search, pair_scores
from sir_jax.runtime.files import whole_file

EXACT_UP_TO = 1_000_000
RECALL = 0.95
SAMPLES = 256  # queries that the recall is measured with
FEWEST_SAMPLES = 64
SAMPLE_K = 10
_TRAIN_ROWS = 64  # a list, to place the lists' centres
_HNSW_LINKS, _HNSW_BUILD = 32, 200


def choose_way(rows: int, way: str = "auto") -> str:
    """Return 'exact', 'ivf' or 'hnsw'.

    Args:
      rows: of the gallery.
      way: one of `WAYS`.

    Raises:
      UserError: an unknown way.
    """
    if way not in WAYS:
        raise UserError(f"way of search {way!r} is none of {', '.join(WAYS)}")
    if way != "auto":
        return way
    return "exact" if rows <= EXACT_UP_TO else "ivf"


def import_faiss():
    """Return the module.

    Raises:
      UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"FAISS is needed here ({error}); pip install 'sir_jax[faiss]', or search exactly"
        ) from None
    return faiss


def recall_of(found: np.ndarray, exact: np.ndarray) -> float:
    """Return what share of the best rows a search found.

    Args:
      found: int[n, a], rows per query.
      exact: int[n, b], the best rows per query.

    Returns:
      0 to 1, the mean over queries; 1 where there is nothing to find.
    """
    if not exact.size:
        return 1.0
    return float((exact[:, :, None] == found[:, None, :]).any(2).mean())


class FaissSearch:
    """A FAISS index over vectors that stay where they are.

    Attributes:
      way: 'ivf' or 'hnsw'.
      recall: what share of the `SAMPLE_K` best of sample queries it found when it was tuned.
    """

    def __init__(self, vectors: np.ndarray, index, way: str, recall: float):
        """Hold what `build` or `load` made."""
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
          vectors: float32[G, E], finite, G from 1 up; kept, for scores.
          way: 'ivf' or 'hnsw'.
          samples: float32[n, E], queries as they will come; of speech for a gallery of pictures.
            Where None or fewer than `FEWEST_SAMPLES`, rows of the gallery, which are easier to
            find than queries.
          recall: the least share of the best to find; where even the most thorough search finds
            less (HNSW can), that one is kept and `recall` tells.

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
        found = cls(vectors, index, way, 0.0)
        found._tune(queries, recall)
        return found

    def search(self, queries: np.ndarray, k: int) -> Found:
        """Find rows of a large inner product with each query.

        Args:
          queries: float32[n, E], finite.
          k: results per query, 1 or more.

        Returns:
          `Found`. Where a query's lists hold fewer than k vectors, all queries are searched exactly
          instead.

        Raises:
          UserError: see `exact_search`.
        """
        queries, _ = check_arrays(queries, self.vectors, k)
        k = min(k, len(self.vectors))
        _, rows = self._index.search(np.ascontiguousarray(queries), k)
        if (rows < 0).any():
            return exact_search(queries, self.vectors, k)
        who = np.repeat(np.arange(len(queries)), k)
        scores = pair_scores(queries[who], self.vectors[rows.ravel()]).reshape(rows.shape)
        order = np.lexsort((rows, -scores), axis=1)
        return Found(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))

    def save(self, path: Path) -> None:
        """Write the index, so that an interrupt leaves no half of one."""
        with whole_file(path) as part:
            import_faiss().write_index(self._index, str(part))

    @classmethod
    def load(cls, path: Path, vectors: np.ndarray, way: str, recall: float) -> "FaissSearch":
        """Read what `save` wrote.

        Args:
          path: the file.
          vectors: float32[G, E], those that it was built of.
          way, recall: its attributes.

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

    def _tune(self, queries: np.ndarray, wanted: float) -> None:
        """Search as thoroughly as it takes to find the wanted share."""
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
            if self.recall >= wanted or effort >= most:
                return
            effort *= 2


def _build_ivf(faiss, vectors: np.ndarray):
    count, width = vectors.shape
    # Work per query is what finds the lists plus what is in them: both grow as the root.
    lists = 1 << max(0, round(math.log2(4 * math.sqrt(count))))
    lists = max(1, min(lists, count // 8))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(count)[: _TRAIN_ROWS * lists])
    index.cp.min_points_per_centroid = 1  # or it warns on stderr
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
