"""Silence before, within and after the words, and where it may go."""

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE

_FRAME = 320
# A pause within goes where the voice is quietest: into one of this share of its frames.
_QUIET = 0.15


def find_pause(wave: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a sample between words: the middle of one of the quietest stretches of 20 ms.

    Args:
      wave: float32 [N]; the first and the last tenth of it are left out.
      rng: random generator.

    Returns:
      An index from 0 to N.
    """
    frames = wave[: len(wave) // _FRAME * _FRAME].reshape(-1, _FRAME)
    edge = len(frames) // 10
    inner = np.square(frames[edge : len(frames) - edge], dtype=np.float64).sum(1)
    if not inner.size:
        return len(wave) // 2
    quietest = np.argsort(inner, kind="stable")[: max(1, int(_QUIET * inner.size))]
    return (edge + int(rng.choice(quietest))) * _FRAME + _FRAME // 2


def insert_silence(
    wave: np.ndarray, at: int, samples: int, amplitude: float, rng: np.random.Generator
) -> np.ndarray:
    """Insert a stretch in which nobody speaks.

    Args:
      wave: float32 [N].
      at: sample before which it begins, from 0 to N.
      samples: its length.
      amplitude: effective value of the white noise in it; 0 for digital silence.
      rng: random generator of the noise.

    Returns:
      float32 [N + samples]; `wave` itself if there are none.
    """
    if not samples:
        return wave
    if amplitude:
        quiet = np.float32(amplitude) * rng.standard_normal(samples, np.float32)
    else:
        quiet = np.zeros(samples, np.float32)
    return np.concatenate([wave[:at], quiet, wave[at:]])


def fit_silence(seconds: np.ndarray, spare: int | None) -> np.ndarray:
    """Turn drawn lengths of silence into samples that find room.

    Args:
      seconds: float [3], before, within and after.
      spare: samples that there is room for; None for any number. Longer silence shrinks to it, its
        three parts alike.

    Returns:
      int64 [3].
    """
    samples = np.asarray(seconds, np.float64) * SAMPLE_RATE
    if spare is not None and samples.sum() > max(0, spare):
        samples *= max(0, spare) / samples.sum()
    return np.floor(samples).astype(np.int64)
