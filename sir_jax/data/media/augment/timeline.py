"""How the time of an augmented clip maps to that of the clip it was made of."""

import dataclasses

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Timeline:
    """A piecewise linear map from the time of the result to that of the original.

    Attributes:
      pieces: float64 [S, 4], in samples: where a piece begins and ends in the result, and in the
        original. The last two are NaN where silence was put in. Pieces follow each other.
    """

    pieces: np.ndarray

    @classmethod
    def unchanged(cls, samples: int) -> "Timeline":
        """Return the map of a clip to itself."""
        return cls(np.array([[0.0, samples, 0.0, samples]]))

    def resized(self, samples: int) -> "Timeline":
        """Return the map after the whole result was stretched or squeezed to a length."""
        out = self.pieces.copy()
        if out[-1, 1]:
            out[:, :2] *= samples / out[-1, 1]
        return Timeline(out)

    def with_silence(self, at: int, samples: int) -> "Timeline":
        """Return the map after silence was put in before sample `at` of the result."""
        if not samples:
            return self
        before, after = [], []
        for first, last, source, end in self.pieces:
            # A share of the piece lies before the silence.
            share = min(1.0, max(0.0, (at - first) / (last - first))) if last > first else 0.0
            cut, source_cut = first + share * (last - first), source + share * (end - source)
            if share > 0:
                before.append((first, cut, source, source_cut))
            if share < 1:
                after.append((cut + samples, last + samples, source_cut, end))
        return Timeline(np.array([*before, (at, at + samples, np.nan, np.nan), *after]))

    def cropped(self, first: int, samples: int) -> "Timeline":
        """Return the map of `samples` samples of the result, from sample `first` on."""
        out = []
        for begin, last, source, end in self.pieces - np.array([first, first, 0.0, 0.0]):
            low, high = max(begin, 0.0), min(last, samples)
            if low < high:
                rate = (end - source) / (last - begin)
                moved = source + (low - begin) * rate, source + (high - begin) * rate
                out.append((low, high, *moved))
        return Timeline(np.array(out).reshape(-1, 4))

    def source_seconds(self, seconds: np.ndarray) -> np.ndarray:
        """Return when in the original was heard what is heard at some times of the result.

        Args:
          seconds: float [T], in the result.

        Returns:
          float64 [T], in the original; NaN in silence that was put in, and outside the result.
        """
        at = np.asarray(seconds, np.float64) * SAMPLE_RATE
        if not len(self.pieces):
            return np.full(at.shape, np.nan)
        first, last, source, end = self.pieces.T
        piece = (np.searchsorted(first, at, side="right") - 1).clip(0, len(first) - 1)
        length = np.maximum(last - first, 1e-9)[piece]
        out = source[piece] + (at - first[piece]) * (end - source)[piece] / length
        return np.where((at < 0) | (at > last[-1]), np.nan, out) / SAMPLE_RATE
