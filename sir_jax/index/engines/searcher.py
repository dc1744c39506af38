"""Search of one gallery, by the way that suits its size and the machine."""

import jax
import numpy as np

from sir_jax.index.engines.exact import Found, exact_search
from sir_jax.index.engines.exact_device import DeviceGallery
from sir_jax.index.engines.faiss_search import FaissSearch, choose_way


class Searcher:
    """Search a gallery again and again, keeping what is worth making once.

    Attributes:
      faiss: made at the first search that needs it, or loaded; None before.
    """

    def __init__(self, vectors: np.ndarray, faiss: FaissSearch | None = None):
        """Hold a gallery.

        Args:
          vectors: float32[G, E], which must not change.
          faiss: of these vectors, if there is one.
        """
        self._vectors, self.faiss = vectors, faiss
        self._placed: DeviceGallery | None = None

    def search(
        self, queries: np.ndarray, k: int, way: str = "auto", samples: np.ndarray | None = None
    ) -> Found:
        """Find the best rows.

        Args:
          queries: float32[n, E].
          k: results per query.
          way: one of `faiss_search.WAYS`.
          samples: queries as they will come, see `FaissSearch.build`.

        Returns:
          `Found`.

        Raises:
          UserError: queries of another width, or FAISS is needed and not installed.
        """
        way = choose_way(len(self._vectors), way)
        if way == "exact" or not len(self._vectors):
            if self._placed is None and jax.default_backend() != "cpu":
                self._placed = DeviceGallery(self._vectors)
            return exact_search(queries, self._vectors, k, placed=self._placed)
        if self.faiss is None or self.faiss.way != way:
            self.faiss = FaissSearch.build(self._vectors, way, samples=samples)
        return self.faiss.search(queries, k)
