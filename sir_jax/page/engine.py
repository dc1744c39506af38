"""What the page asks of the model and the index: one thing at a time, in plain data."""

import base64
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.errors import UserError
from sir_jax.index.query import OTHER, Hit, rerank_hits
from sir_jax.page.files import Files, Missing

# Columns of a drawn waveform, and frames of a drawn map: more than a screen shows.
PEAKS, FRAMES = 800, 400
# The best by cosine that re-ranking scores again; fewer where fewer are asked for and held.
RERANK = 32
USUAL = 12  # results, as the page asks at first
# What the index calls a query.
KIND = {"speech": "speech", "picture": "image"}


class Engine:
    """Search and explain with one model and one index; not to be used by two threads at once."""

    def __init__(self, model, index):
        """Take what answers.

        Args:
          model: a `Retriever`.
          index: an `Index` of its vectors.
        """
        self.model, self.index = model, index
        self.pictures, self.recordings = (
            Files(index.root, gallery.rows, index.path_of, kind)
            for gallery, kind in ((index.images, "picture"), (index.recordings, "recording"))
        )

    def warmup(self) -> None:
        """Compile what a plain search needs."""
        nowhere = np.zeros(self.model.width, np.float32)
        for target in OTHER:
            for k in (USUAL, RERANK):
                self.index.search(nowhere, k, of=target)
        self.model.warmup()

    def later(self) -> Iterator[Callable[[], Any]]:
        """Yield what compiles re-ranking and explanations, piece by piece."""
        model = self.model
        if not model.can_match:
            return
        blank = np.zeros((64, 64, 3), np.uint8)
        deep = [min(RERANK, len(side.known)) for side in (self.pictures, self.recordings)]
        for samples in model.cfg.data.buckets:
            silence = np.zeros(samples, np.float32), SAMPLE_RATE
            if deep[0]:
                yield functools.partial(model.match, [silence], [blank] * deep[0])
            if deep[1]:
                yield functools.partial(model.match, [silence] * deep[1], [blank])
            yield functools.partial(self._attention, silence, blank)

    def _attention(self, speech, picture) -> None:
        # A model whose image tokens have no place says so when it is asked.
        with contextlib.suppress(UserError):
            self.model.attention(speech, picture)

    def search(self, kind: str, query: np.ndarray, k: int, rerank: bool) -> dict[str, Any]:
        """Rank the other gallery.

        Args:
          kind: 'speech' or 'picture', what the query is.
          query: float32[N] at 16 kHz, or uint8[h, w, 3].
          k: results, from 1 up.
          rerank: whether the best are scored again by matching.

        Returns:
          `results`, each of `id`, `score` and `match` (None where not re-ranked), best first;
          `total`, the size of the gallery; `timing`, milliseconds of each stage.

        Raises:
          UserError: re-ranking was asked of a model that cannot match.
        """
        files = self.pictures if kind == "speech" else self.recordings
        item = (query, SAMPLE_RATE) if kind == "speech" else query
        encode = self.model.encode_speech if kind == "speech" else self.model.encode_image
        timing: dict[str, float] = {}
        hits: list[Hit] = []
        if files.known:
            with _Timed(timing, "encode"):
                vector = encode([item])[0]
            deep = max(k, RERANK) if rerank else k
            with _Timed(timing, "search"):
                hits = self.index.search(vector, deep, of=OTHER[KIND[kind]])
            if rerank:
                with _Timed(timing, "rerank"):
                    hits = self._rerank(item, kind, hits, files)[:k]
        return {
            "results": [
                {"id": hit.id, "score": _number(hit.score), "match": _number(hit.match)}
                for hit in hits
            ],
            "total": len(files.known),
            "timing": timing,
        }

    def _rerank(self, query, kind: str, hits: list[Hit], files: Files) -> list[Hit]:
        """Order by matching; what has lost its file since comes last, as it was."""
        here, gone = [], []
        for hit in hits:
            try:
                files.path(hit.id)
                here.append(hit)
            except Missing:
                gone.append(hit)
        return rerank_hits(self.model, query, KIND[kind], here, files.path) + gone

    def explain(self, wave: np.ndarray, picture: np.ndarray) -> dict[str, Any]:
        """Say which patches of a picture answer which stretch of a recording.

        Args:
          wave: float32[N] at 16 kHz.
          picture: uint8[h, w, 3].

        Returns:
          The fields of `Attention`, its arrays as base64 of little-endian float32; frames are
          averaged in groups where there are more than `FRAMES`. And the `peaks` of the wave, the
          picture's `width` and `height`.

        Raises:
          UserError: the model cannot match.
        """
        start = time.monotonic()
        found = self.model.attention((wave, SAMPLE_RATE), picture)
        weights, by_frame, size = _grouped(found.weights, found.by_frame)
        return {
            "weights": _packed(weights),
            "by_frame": _packed(by_frame),
            "by_patch": _packed(found.by_patch),
            "rows": weights.shape[1],
            "cols": weights.shape[2],
            "frame_seconds": found.frame_seconds * size,
            "seconds": found.seconds,
            "score": _number(found.score),
            "box": [float(side) for side in found.box],
            "width": picture.shape[1],
            "height": picture.shape[0],
            "peaks": peaks(wave),
            "timing": {"explain": (time.monotonic() - start) * 1e3},
        }


class _Timed:
    """Note how many milliseconds a block takes."""

    def __init__(self, timing: dict[str, float], name: str):
        self.timing, self.name = timing, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_) -> None:
        self.timing[self.name] = (time.perf_counter() - self.start) * 1e3


def peaks(wave: np.ndarray) -> list[float]:
    """Return the largest absolute value of each of at most `PEAKS` equal stretches of a wave."""
    if not wave.size:
        return []
    starts = np.linspace(0, len(wave), min(PEAKS, len(wave)), endpoint=False).astype(int)
    return [round(float(value), 4) for value in np.maximum.reduceat(np.abs(wave), starts)]


def _grouped(weights: np.ndarray, by_frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return shares and dependence of groups of frames, and how many frames make a group.

    A frame counts in its group by how much the match depends on it, as in `Attention.during`.
    """
    size = math.ceil(len(by_frame) / FRAMES)
    if size == 1:
        return weights, by_frame, 1
    starts = np.arange(0, len(by_frame), size)
    share = by_frame + np.float32(1e-12)
    total = np.add.reduceat(share, starts)
    grouped = np.add.reduceat(weights * share[:, None, None], starts) / total[:, None, None]
    return grouped, np.add.reduceat(by_frame, starts), size


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
