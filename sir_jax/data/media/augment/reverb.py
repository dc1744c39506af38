"""A room: made impulse responses, and convolution with one."""

import math

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment.fourier import convolve, energy


def add_reverb(wave: np.ndarray, response: np.ndarray, direct: int) -> np.ndarray:
    """Convolve with a room's impulse response, without delay and at constant energy.

    Args:
      wave: float32 [N].
      response: float [M] at the same rate.
      direct: index of the direct path in `response`; the result starts there.

    Returns:
      float32 [N]; `wave` itself if the result would be silent.
    """
    n = len(wave)
    out = convolve(wave, response)[direct : direct + n]
    total = energy(out)
    if not total:
        return wave
    return (out * math.sqrt(energy(wave) / total)).astype(np.float32)


def make_response(t60: float, direct_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Make an impulse response: the direct path, followed by exponentially decaying noise.

    Args:
      t60: time in seconds in which the noise decays by 60 dB; the response ends there.
      direct_ratio: energy of the direct path over that of the noise, in dB.
      rng: random generator of the noise.

    Returns:
      float64 [t60 * 16000], rounded up. The direct path is the 1 at index 0.
    """
    n = max(2, math.ceil(t60 * SAMPLE_RATE))
    out = rng.standard_normal(n) * np.exp(-math.log(1e3) / (t60 * SAMPLE_RATE) * np.arange(n))
    out[0] = 0.0
    out *= 10 ** (-direct_ratio / 20) / math.sqrt(energy(out))
    out[0] = 1.0
    return out
