"""Search and explanation for the page, with results as plain data."""

import base64
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.synthesis.said import Said
from sir_jax.errors import UserError
from sir_jax.index.items import rerank_readable
from sir_jax.index.moments.search import cut_moment
from sir_jax.index.moments.store import Moment
from sir_jax.index.query import OTHER, Hit, probabilities
from sir_jax.page.item_files import ItemFiles, Missing
from sir_jax.page.outline import peaks

FRAMES = 400  # most frames of a drawn map: more than a screen can show
RERANK = 32  # hits that are re-ranked, or more if more results are asked for
DEFAULT_RESULTS = 12
# The page's name for the kind of a query -> the index's name.
INDEX_KIND = {"speech": "speech", "picture": "image"}


class Engine:
    """Search and explain with one model and one index. Not thread-safe."""

    def __init__(self, model, index):
        """Hold a model and an index.

        Args:
          model: a `Retriever`.
          index: an `Index` of the model's vectors.
        """
        self.model, self.index = model, index
        self.pictures, self.recordings = (
            ItemFiles(index.root, gallery.rows, index.path_of, kind, gallery.stamp_of)
            for gallery, kind in ((index.images, "picture"), (index.recordings, "recording"))
        )

    def warmup(self) -> None:
        """Compile the programs of a search without re-ranking."""
        zero_vector = np.zeros(self.model.width, np.float32)
        for target in OTHER:
            for k in (DEFAULT_RESULTS, RERANK):
                self.index.search(zero_vector, k, of=target)
        self.model.warmup()

    def warmup_steps(self) -> Iterator[Callable[[], Any]]:
        """Yield functions that compile the programs of re-ranking and explanation, one by one."""
        model = self.model
        if not model.can_match:
            return
        blank = np.zeros((64, 64, 3), np.uint8)
        pictures, recordings = (
            min(RERANK, len(files.known)) for files in (self.pictures, self.recordings)
        )
        for samples in model.cfg.data.buckets:
            silence = np.zeros(samples, np.float32), SAMPLE_RATE
            if pictures:
                yield functools.partial(model.match, [silence], [blank] * pictures)
            if recordings:
                yield functools.partial(model.match, [silence] * recordings, [blank])
            yield functools.partial(self._attention, silence, blank)

    def _attention(self, speech, picture) -> None:
        # A model whose image tokens are not patches raises; requests get its message later.
        with contextlib.suppress(UserError):
            self.model.attention(speech, picture)

    def describe(self) -> dict[str, Any]:
        """Return the model's name, what it can do, and how much the index holds."""
        return {
            "model": self.model.name,
            "can_match": self.model.can_match,
            "pooled": bool(self.model.model.pooled_width),
            "pictures": len(self.pictures.known),
            "recordings": len(self.recordings.known),
        }

    def search(
        self,
        kind: str,
        query: np.ndarray | Said,
        k: int,
        rerank: bool,
        tell: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, Any]:
        """Search pictures for a recording, or recordings for a picture.

        Args:
          kind: the query's kind, 'speech' or 'picture'.
          query: float32[N] at 16 kHz, a typed text, or uint8[h, w, 3].
          k: most results; 0 for a query in which nothing is heard.
          rerank: whether to re-rank the best hits.
          tell: called when a stage begins, with its name; may raise to end the search.

        Returns:
          A dictionary of `results`, best first, each with `id`, `score`, `match` (None if not
          re-ranked), `probability` (None without a calibration) and `moments`, the [start, end,
          score, clear] of the best stretches of a long recording; `total`, the size of the gallery;
          `timing`, the milliseconds of each stage.

        Raises:
          UserError: `rerank` is set and the model cannot match.
        """
        files = self.pictures if kind == "speech" else self.recordings
        is_wave = kind == "speech" and not isinstance(query, Said)
        item = (query, SAMPLE_RATE) if is_wave else query
        encode = self.model.encode_speech if kind == "speech" else self.model.encode_image
        timing: dict[str, float] = {}
        hits: list[Hit] = []
        moments: dict[str, list[Moment]] = {}
        if files.known and k:
            with _Timed(timing, "encode", tell):
                vector = encode([item], notes=[])[0]  # the server tells of silence
            depth = max(k, RERANK) if rerank else k
            with _Timed(timing, "search", tell):
                hits = self.index.search(vector, depth, of=OTHER[INDEX_KIND[kind]])
            if rerank:
                with _Timed(timing, "rerank", tell):
                    hits = self._rerank(item, vector, kind, hits, files)[:k]
            if kind == "picture":
                moments = self.index.moments(vector, [hit.id for hit in hits])
        return {
            "results": [
                {
                    "id": hit.id,
                    "score": _finite(hit.score),
                    "match": _finite(hit.match),
                    "probability": _finite(chance),
                    "moments": [*map(list, moments.get(hit.id, ()))],
                }
                for hit, chance in zip(hits, probabilities(self.model, hits), strict=True)
            ],
            "total": len(files.known),
            "timing": timing,
        }

    def _rerank(self, query, vector, kind: str, hits: list[Hit], files: ItemFiles) -> list[Hit]:
        """Re-rank hits; those whose file cannot be read come last, in their old order."""
        present, missing = [], []
        for hit in hits:
            try:
                files.path(hit.id)
                present.append(hit)
            except Missing:
                missing.append(hit)
        gallery = self.index.images if files is self.pictures else self.index.recordings
        cut = functools.partial(cut_moment, gallery, vector)
        given = self.model, query, INDEX_KIND[kind], present
        return rerank_readable(*given, files.path, cut) + missing

    def explain(self, wave: np.ndarray, picture: np.ndarray) -> dict[str, Any]:
        """Compute the attention of a recording and a picture.

        Args:
          wave: float32[N] at 16 kHz.
          picture: uint8[h, w, 3].

        Returns:
          A dictionary of the fields of `Attention`, its arrays as base64 of little-endian float32.
          More than `FRAMES` frames are averaged in groups. Also the `peaks` of the wave and the
          picture's `width` and `height`.

        Raises:
          UserError: the model cannot match.
        """
        start = time.monotonic()
        attention = self.model.attention((wave, SAMPLE_RATE), picture)
        weights, by_frame, size = _group_frames(attention.weights, attention.by_frame)
        return {
            "weights": _base64(weights),
            "by_frame": _base64(by_frame),
            "by_patch": _base64(attention.by_patch),
            "rows": weights.shape[1],
            "cols": weights.shape[2],
            "frame_seconds": attention.frame_seconds * size,
            "seconds": attention.seconds,
            "score": _finite(attention.score),
            "box": [float(side) for side in attention.box],
            "width": picture.shape[1],
            "height": picture.shape[0],
            "peaks": peaks(wave),
            "timing": {"explain": (time.monotonic() - start) * 1e3},
        }


class _Timed:
    """Tell of a `with` block, and store the milliseconds that it takes."""

    def __init__(self, timing: dict[str, float], name: str, tell: Callable[[str], None]):
        self.timing, self.name, self.tell = timing, name, tell

    def __enter__(self) -> None:
        self.tell(self.name)
        self.start = time.perf_counter()

    def __exit__(self, *_) -> None:
        self.timing[self.name] = (time.perf_counter() - self.start) * 1e3


def _group_frames(weights: np.ndarray, by_frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return `weights` and `by_frame` of groups of frames, and the number of frames in a group.

    In the average of a group each frame is weighted by `by_frame`, as in `Attention.during`.
    """
    size = math.ceil(len(by_frame) / FRAMES)
    if size == 1:
        return weights, by_frame, 1
    starts = np.arange(0, len(by_frame), size)
    share = by_frame + np.float32(1e-12)
    total = np.add.reduceat(share, starts)
    grouped = np.add.reduceat(weights * share[:, None, None], starts) / total[:, None, None]
    return grouped, np.add.reduceat(by_frame, starts), size


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
