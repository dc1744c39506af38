"""Cut recordings of any length into overlapping windows, without ever holding one whole."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE

# Windows overlap by half, so that what is said lies whole in one of them if it is half as long.
_FRAME = SAMPLE_RATE // 10
# In dB below full scale: no word is heard in a window whose loudest tenth of a second is below.
QUIET = -60.0
# Likewise, in dB below the loud windows of the recording, which are a twentieth of them.
_BELOW, _LOUD = 40.0, 95


def windows_of(blocks: Iterable[np.ndarray], length: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a stream of samples into windows that overlap by half; the last ends with the stream.

    Args:
      blocks: float32[n] each, one after the other.
      length: samples of a window.

    Yields:
      (the window's first sample, its samples). A stream that is shorter is one window.

    Example:
      >>> [(start, w.astype(int).tolist()) for start, w in windows_of([np.arange(7)], 4)]
      [(0, [0, 1, 2, 3]), (2, [2, 3, 4, 5]), (3, [3, 4, 5, 6])]
    """
    held, begin, start, hop = np.zeros(0, np.float32), 0, 0, max(1, length // 2)
    for block in blocks:
        held = np.concatenate([held, block])
        while begin + len(held) >= start + length:
            # The window before is held back: the last one may begin in it.
            held, begin = held[max(0, start - hop - begin) :], max(begin, start - hop)
            yield start, held[start - begin : start - begin + length]
            start += hop
    end, done = begin + len(held), start - hop + length if start else 0
    if end > done:
        last = max(0, end - length)
        yield last, held[last - begin :]


def level_of(window: np.ndarray) -> float:
    """Return the level of the loudest tenth of a second, in dB of full scale."""
    frames = window[: len(window) // _FRAME * _FRAME].reshape(-1, _FRAME)
    frames = frames if len(frames) else window[None]
    power = np.square(frames - frames.mean(1, keepdims=True), dtype=np.float64).mean(1).max()
    return float(10 * np.log10(power + 1e-12))


def are_heard(levels: Sequence[float]) -> np.ndarray:
    """Tell in which windows of a recording something may be said, bool[n].

    It is an energy gate, and no more: in constant noise every window passes.

    Args:
      levels: of the windows that are above `QUIET`, see `level_of`.
    """
    levels = np.asarray(levels)
    return levels >= np.percentile(levels, _LOUD) - _BELOW if len(levels) else levels >= 0
