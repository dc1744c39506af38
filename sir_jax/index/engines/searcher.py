"""Search one gallery by the way that suits its size and the machine."""

import jax
import numpy as np

from sir_jax.index.engines.exact import SearchResult, exact_search
from sir_jax.index.engines.exact_device import DeviceGallery
from sir_jax.index.engines.faiss_search import FaissSearch, choose_way


class Searcher:
    """Search a gallery repeatedly; keeps its FAISS index and its copy on an accelerator.

    Attributes:
      faiss: the FAISS index; None until a search needs one.
    """

    def __init__(self, vectors: np.ndarray, faiss: FaissSearch | None = None):
        """Hold a gallery.

        Args:
          vectors: float32[G, E]; must not change.
          faiss: a FAISS index of these vectors, if there is one already.
        """
        self._vectors, self.faiss = vectors, faiss
        self._device_gallery: DeviceGallery | None = None

    def search(
        self, queries: np.ndarray, k: int, way: str = "auto", samples: np.ndarray | None = None
    ) -> SearchResult:
        """Find the best rows.

        Args:
          queries: float32[n, E].
          k: most rows per query.
          way: one of `engines.WAYS`.
          samples: typical queries, by which a new FAISS index is tuned, see `FaissSearch.build`.

        Returns:
          `SearchResult`.

        Raises:
          UserError: the queries have another width, or FAISS is needed and not installed.
        """
        way = choose_way(len(self._vectors), way)
        if way == "exact" or not len(self._vectors):
            if self._device_gallery is None and jax.default_backend() != "cpu":
                self._device_gallery = DeviceGallery(self._vectors)
            return exact_search(queries, self._vectors, k, device_gallery=self._device_gallery)
        if self.faiss is None or self.faiss.way != way:
            self.faiss = FaissSearch.build(self._vectors, way, samples=samples)
        return self.faiss.search(queries, k)
