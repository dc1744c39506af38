"""Masked stretches: SpecAugment (Park et al. 2019) on the waveform.

On the waveform, masks need no model: any encoder may read the clip, frozen ones included, and what
is masked is the same for a teacher's features and a student's. A stretch of zeros is also what a
lost packet leaves, and a missing band what a filter does.
"""

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment.fourier import fft_size

# A stretch takes at most this share of a clip, so that short words survive.
_MOST = 0.2
# Width of a band's slopes in Hz, and how far they ring.
_SLOPE = 100.0
_RING = 800


def mask_time(wave: np.ndarray, stretches: list[tuple[int, int]]) -> np.ndarray:
    """Set stretches to zero.

    Args:
      wave: float32 [N].
      stretches: first sample and number of samples of each.

    Returns:
      float32 [N], a copy.
    """
    out = wave.copy()
    for first, samples in stretches:
        out[first : first + samples] = 0
    return out


def mask_bands(wave: np.ndarray, bands: list[tuple[float, float]]) -> np.ndarray:
    """Take bands of frequencies out.

    Args:
      wave: float32 [N].
      bands: lowest and highest frequency of each in Hz; nothing is left between them. Outside, the
        slopes are 100 Hz wide.

    Returns:
      float32 [N] without delay.
    """
    n = len(wave)
    size = fft_size(n + _RING)
    spectrum = np.fft.rfft(wave, size)
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    for low, high in bands:
        first, last = np.searchsorted(hz, (low - _SLOPE, high + _SLOPE))
        outside = np.maximum(low - hz[first:last], hz[first:last] - high).clip(0, _SLOPE)
        spectrum[first:last] *= 0.5 - 0.5 * np.cos(np.pi * outside / _SLOPE)
    return np.fft.irfft(spectrum, size)[:n].astype(np.float32)


def draw_stretches(
    samples: int, most: int, seconds: tuple[float, float], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw up to `most` stretches of a clip, each at most a fifth of it; see `mask_time`."""
    out = []
    for _ in range(int(rng.integers(most + 1))):
        length = min(int(rng.uniform(*seconds) * SAMPLE_RATE), int(_MOST * samples))
        out.append((int(rng.integers(samples - length + 1)), length))
    return out


def draw_bands(
    most: int, hertz: tuple[float, float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Draw up to `most` bands between 0 and 8 kHz, evenly on the scale of hearing (mel)."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    out = []
    for _ in range(int(rng.integers(most + 1))):
        centre = 700 * (10 ** (rng.uniform(0, top) / 2595) - 1)
        half = rng.uniform(*hertz) / 2
        out.append((max(0.0, centre - half), min(SAMPLE_RATE / 2, centre + half)))
    return out
