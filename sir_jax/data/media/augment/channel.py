"""What a wire does to a voice: the band of a telephone, its coding, clipping and gain."""

import functools
import math

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment.fourier import convolve

# The band of a telephone, and the width of the filter's slopes outside it, in Hz.
PHONE_BAND = (300.0, 3400.0)
PHONE_SLOPE = 100.0
_STOP_DB = 60.0
_MU = 255.0


def narrow_band(wave: np.ndarray, mu_law: bool) -> np.ndarray:
    """Filter a waveform as a telephone does: it passes 300 to 3400 Hz.

    At 100 Hz outside of that band the attenuation is 60 dB.

    Args:
      wave: float32 [N].
      mu_law: True to sample at 8 kHz and code in 8 bits by the mu-law, too; samples beyond [-1, 1]
        are clipped.

    Returns:
      float32 [N] without delay.
    """
    if not wave.size:
        return wave
    band = _phone_filter()
    delay, n = len(band) // 2, len(wave)
    out = convolve(wave, band)[delay : delay + n]
    # After the filter there is nothing above 4 kHz, so sampling at 8 kHz alone would change
    # nothing: it is only needed for the coding.
    if mu_law:
        coded = np.zeros(n)
        coded[::2] = 2 * code_mu_law(out[::2])
        out = convolve(coded, band)[delay : delay + n]
    return out.astype(np.float32)


def code_mu_law(samples: np.ndarray) -> np.ndarray:
    """Round samples to the 255 levels of the mu-law (mu 255, 8 bits with sign); 0 stays 0.

    Args:
      samples: float [N]; values beyond [-1, 1] are clipped.

    Returns:
      float64 [N] in [-1, 1].
    """
    x = np.clip(np.asarray(samples, np.float64), -1, 1)
    level = np.rint(127 * np.log1p(_MU * np.abs(x)) / math.log1p(_MU)) / 127
    return np.sign(x) * np.expm1(level * math.log1p(_MU)) / _MU


def change_gain(wave: np.ndarray, db: float) -> np.ndarray:
    """Make a waveform louder by `db` decibels, without clipping."""
    return wave * np.float32(10 ** (db / 20))


@functools.cache
def _phone_filter() -> np.ndarray:
    """Return the band-pass filter: a symmetric Kaiser-windowed sinc of odd length."""
    slope = 2 * math.pi * PHONE_SLOPE / SAMPLE_RATE
    # Kaiser's formulas for the length and the window's parameter at 60 dB.
    half = math.ceil((_STOP_DB - 7.95) / (2.285 * slope) / 2)
    window = np.kaiser(2 * half + 1, 0.1102 * (_STOP_DB - 8.7))
    low, high = (
        2 * (edge + side * PHONE_SLOPE / 2) / SAMPLE_RATE
        for edge, side in zip(PHONE_BAND, (-1, 1), strict=True)
    )
    at = np.arange(-half, half + 1)
    return window * (high * np.sinc(high * at) - low * np.sinc(low * at))


def clip_peaks(wave: np.ndarray, db: float) -> np.ndarray:
    """Cut off what is louder than a ceiling, as an input that is turned up too far does.

    Args:
      wave: float32 [N].
      db: how far the ceiling lies below the clip's peak, in dB; at most 0 changes nothing.

    Returns:
      float32 [N], no louder than `wave`.
    """
    if db <= 0 or not wave.size:
        return wave
    ceiling = np.float32(np.abs(wave).max() * 10 ** (-db / 20))
    return np.clip(wave, -ceiling, ceiling)
