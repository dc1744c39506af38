"""The length of the vocal tract: formants move, pitch and tempo stay.

Jaitly and Hinton (2013) warp the frequency axis of a recogniser's features (VTLP). Here the axis of
the spectral envelope is warped, and the waveform filtered to match. Together with a change of pitch
this makes of one speaker many: children, women and men differ in the two apart.
"""

import functools
import math

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE

_FRAME, _HOP = 512, 256
# Poles of the envelope: two for each formant below 8 kHz, and two to spare. The first difference of
# the waveform is modelled: its tilt is that of the tract, without the voice's.
_ORDER = 18
_EMPHASIS = 0.97
# Formants lie below; the axis above is squeezed or stretched to end at half the sampling rate.
_TOP = 4800.0
_MOST_DB = 30.0


def change_tract(wave: np.ndarray, factor: float) -> np.ndarray:
    """Move the formants, as a shorter or longer vocal tract does.

    Args:
      wave: float32 [N].
      factor: a formant at f Hz moves to f * factor Hz, up to some 4 kHz. Above 1 is a shorter
        tract.

    Returns:
      float32 [N] without delay and of the same energy; `wave` itself if it is silent.
    """
    n = len(wave)
    if not n or factor == 1:
        return wave
    count = -(-n // _HOP) + 1
    padded = np.zeros((count + 1) * _HOP, np.float32)
    padded[_HOP : _HOP + n] = wave
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP]
    spectra = np.fft.rfft(frames * _window())
    power = np.square(spectra.real) + np.square(spectra.imag)
    if not power.any():
        return wave
    poles = _predict(power)
    # The envelope is 1 / |A|, with A known between bins, too: the new one at f is the old one at
    # the frequency that moves to f.
    here = np.square(np.abs(np.fft.rfft(poles, _FRAME)))
    there = _response(poles, _origins(factor))
    most = 10 ** (_MOST_DB / 20)
    gain = np.sqrt(here / there).clip(1 / most, most)
    frames = np.fft.irfft(spectra * gain) * _window()
    out = np.zeros((count + 1, _HOP), np.float32)
    out[:-1] += frames[:, :_HOP]
    out[1:] += frames[:, _HOP:]
    out = out.ravel()[_HOP : _HOP + n]
    total, was = (float(np.square(x, dtype=np.float64).sum()) for x in (out, wave))
    return out * np.float32(math.sqrt(was / total)) if total else wave


def warp_axis(hz: np.ndarray, factor: float) -> np.ndarray:
    """Return where each frequency moves: to f * factor, and in line to the end of the axis above.

    Args:
      hz: float [F], from 0 to 8000.
      factor: see `change_tract`.
    """
    half = SAMPLE_RATE / 2
    knee = _TOP * min(factor, 1) / factor
    end = knee * factor
    return np.where(hz <= knee, hz * factor, half - (half - end) / (half - knee) * (half - hz))


@functools.cache
def _window() -> np.ndarray:
    """Return the root of a Hann window: applied twice, halves overlap to 1."""
    return np.sin(np.pi * np.arange(_FRAME) / _FRAME).astype(np.float32)


@functools.cache
def _bins() -> np.ndarray:
    return np.linspace(0, SAMPLE_RATE / 2, _FRAME // 2 + 1)


def _origins(factor: float) -> np.ndarray:
    """Return the frequency that moves to each bin."""
    return np.interp(_bins(), warp_axis(_bins(), factor), _bins())


def _predict(power: np.ndarray) -> np.ndarray:
    """Return the coefficients of each frame's linear prediction, by Levinson's recursion.

    Args:
      power: float32 [T, F], power spectra.

    Returns:
      float32 [T, _ORDER + 1]; the first coefficient is 1.
    """
    emphasis = 1 + _EMPHASIS**2 - 2 * _EMPHASIS * np.cos(np.pi * _bins() / _bins()[-1])
    lags = np.fft.irfft(power * emphasis.astype(np.float32))[:, : _ORDER + 1].T.astype(np.float64)
    # Poles 60 Hz wide at least, and a floor 90 dB below: harmonics and silence make none.
    lags *= np.exp(-0.5 * np.square(2 * np.pi * 60 / SAMPLE_RATE * np.arange(_ORDER + 1)))[:, None]
    lags[0] = lags[0] * (1 + 1e-9) + 1e-12 * lags[0].max()
    a = np.zeros_like(lags)
    a[0], error = 1.0, lags[0].copy()
    for i in range(1, _ORDER + 1):
        reflection = -(a[:i] * lags[i:0:-1]).sum(0) / error
        a[1 : i + 1] += reflection * a[i - 1 :: -1][:i].copy()
        error *= 1 - np.square(reflection)
    return a.T.astype(np.float32)


def _response(poles: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Return |A|^2 of each frame at some frequencies, float32 [T, F]."""
    angle = 2 * np.pi / SAMPLE_RATE * np.arange(_ORDER + 1)[:, None] * hz
    # Not `@`: see `fourier.energy`.
    parts = (
        np.einsum("tk,kf->tf", poles, turn(angle).astype(np.float32)) for turn in (np.cos, np.sin)
    )
    return sum(map(np.square, parts))
