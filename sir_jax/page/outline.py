"""Waveforms as the page draws them: the largest value in each of a few hundred columns."""

from collections.abc import Iterable

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE

PEAKS = 800  # most columns: more than a screen can show
STEP = SAMPLE_RATE // 20  # samples that a long recording holds one value for: 7 MB a day


def peaks(wave: np.ndarray) -> list[float]:
    """Return the largest absolute value in each of at most `PEAKS` equal parts of a wave."""
    return [round(float(value), 4) for value in _columns(np.abs(wave))]


def outline_of(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the outline of a recording of any length, of which one block is held at a time.

    Args:
      blocks: float32[n] each, one after the other.

    Returns:
      float32[1 + n]: its seconds, and the largest absolute value in each of n equal parts, at most
      `PEAKS`, to within `STEP`.

    Example:
      >>> outline_of([np.full(800, 0.5, np.float32), np.zeros(800, np.float32)]).tolist()
      [0.10000000149011612, 0.5, 0.0]
    """
    tops, rest, samples = [], np.zeros(0, np.float32), 0
    for block in blocks:
        samples += len(block)
        rest = np.concatenate([rest, np.abs(block)])
        whole = len(rest) // STEP * STEP
        tops.append(rest[:whole].reshape(-1, STEP).max(1))
        rest = rest[whole:]
    if len(rest):
        tops.append(rest.max(keepdims=True))
    columns = _columns(np.concatenate([np.zeros(0, np.float32), *tops]))
    return np.append(np.float32(samples / SAMPLE_RATE), columns).astype(np.float32)


def _columns(values: np.ndarray) -> np.ndarray:
    if not values.size:
        return values
    starts = np.linspace(0, len(values), min(PEAKS, len(values)), endpoint=False).astype(int)
    return np.maximum.reduceat(values, starts)
