"""Noise: three kinds that can be made, and mixing at a signal-to-noise ratio."""

import math
from collections.abc import Callable

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment.fourier import energy, fft_size


def add_noise(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio of mean powers over the whole clip.

    Args:
      wave: float32 [N].
      noise: float [N] of any loudness.
      snr: signal-to-noise ratio in dB.

    Returns:
      float32 [N]; `wave` itself if wave or noise are silent and the ratio is undefined.
    """
    signal, power = energy(wave), energy(noise)
    if not (signal and power):
        return wave
    noise = noise.astype(np.float64)
    return (wave + noise * math.sqrt(signal / power / 10 ** (snr / 10))).astype(np.float32)


def fit_length(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Take a random part of a sound, or repeat a short one from a random sample on.

    Args:
      sound: [M] with M at least 1.
      length: N, the length of the result in samples.
      rng: random generator of the first sample.

    Returns:
      [N].
    """
    if len(sound) >= length:
        first = int(rng.integers(len(sound) - length + 1))
        return sound[first : first + length]
    return np.resize(np.roll(sound, -int(rng.integers(len(sound)))), length)


def white_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise of equal power at all frequencies, float32 [length]."""
    # float32 takes half the time of float64.
    return rng.standard_normal(length, np.float32)


def pink_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise whose power falls by 3 dB per octave, float64 [length]."""
    return _shape_noise(white_noise(length, rng), lambda hz: 1 / np.sqrt(hz))


def babble_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Make the murmur of a crowd, float64 [length].

    It has four talkers without words: each is noise whose loudness varies at the rate of syllables.
    The spectrum is that of speech over a long time: flat up to 500 Hz, then falling by 9 dB per
    octave.
    """
    # Loudness is constant for 10 ms at a time: this is inaudible, and sines are slow to compute.
    step = SAMPLE_RATE // 100
    seconds = np.arange(-(-length // step)) / 100
    crowd = np.zeros(length)
    for _ in range(4):
        rate, phase = rng.uniform(2.5, 6.0), rng.uniform(0, 2 * np.pi)
        swell = (0.5 + 0.5 * np.sin(2 * np.pi * rate * seconds + phase)) ** 2
        crowd += np.repeat(swell, step)[:length] * white_noise(length, rng)
    return _shape_noise(crowd, lambda hz: np.minimum(1.0, (hz / 500) ** -1.5))


def _shape_noise(noise: np.ndarray, amplitude: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Give noise a spectrum. It is zero below 20 Hz, where a 1/f spectrum has most of its power."""
    n = len(noise)
    size = fft_size(n)
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    heard = hz >= 20
    shape = np.zeros_like(hz)
    shape[heard] = amplitude(hz[heard])
    return np.fft.irfft(np.fft.rfft(noise, size) * shape, size)[:n]


NOISES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "white": white_noise,
    "pink": pink_noise,
    "babble": babble_noise,
}
