"""Speed, tempo and pitch: how fast and how high somebody speaks."""

import numpy as np
import soxr

from sir_jax.data.media.audio import SAMPLE_RATE


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Change the speed by resampling, which changes tempo and pitch together.

    Args:
      wave: float32 [N].
      factor: above 1 is faster; a tone of f Hz becomes one of f * factor Hz.

    Returns:
      float32 [N / factor], with the length rounded and at least 1 unless N is 0.
    """
    if not wave.size or factor == 1:
        return wave
    out = soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    length = max(1, round(len(wave) / factor))
    return np.pad(out[:length], (0, max(0, length - len(out))))


# Frames of 40 ms hold two periods of the deepest voice. Each may move by 10 ms to where it goes on
# from the one before. All of them begin at even samples, as every other sample is compared.
_FRAME, _HOP, _SEARCH = 640, 320, 160


def change_tempo(wave: np.ndarray, factor: float) -> np.ndarray:
    """Change the tempo and leave the pitch: waveform-similarity overlap-add (Verhelst 1993).

    Args:
      wave: float32 [N].
      factor: above 1 is faster.

    Returns:
      float32 [N / factor], with the length rounded and at least 1 unless N is 0. Sample n comes
      from within 10 ms of sample n * factor.
    """
    n = len(wave)
    if not n or factor == 1:
        return wave
    length = max(1, round(n / factor))
    count = -(-length // _HOP) + 1
    # Frame k is centred on sample k * hop of the result. Zeros let every search stay inside.
    before = _HOP + _SEARCH
    padded = np.zeros(before + n + 2 * (_FRAME + _SEARCH) + round(_HOP * factor), np.float32)
    padded[before : before + n] = wave
    coarse = padded[::2].copy()
    half, lags = _HOP // 2, _SEARCH + 1
    power = np.concatenate([[0.0], np.cumsum(np.square(coarse, dtype=np.float64))])
    power = np.sqrt(power[half:] - power[:-half] + 1e-9).astype(np.float32)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)).astype(np.float32)
    # In silence nothing is more alike than another: there, frames do not move.
    centred = -1e-6 * np.abs(np.arange(lags, dtype=np.float32) - lags // 2)
    out = np.zeros((count + 1) * _HOP, np.float32)
    at = _SEARCH // 2  # of the frame, in pairs of samples
    for k in range(count):
        if k:
            # What would follow the last frame is sought around where this one should be.
            first = round(k * half * factor)
            goes_on = coarse[at + half : at + _HOP]
            like = np.correlate(coarse[first : first + lags - 1 + half], goes_on)
            like /= power[first : first + lags]
            at = first + int((like + centred).argmax())
        out[k * _HOP : k * _HOP + _FRAME] += window * padded[2 * at : 2 * at + _FRAME]
    return out[_HOP : _HOP + length]


def change_pitch(wave: np.ndarray, semitones: float) -> np.ndarray:
    """Change the pitch and leave the tempo; the formants move with the pitch.

    Args:
      wave: float32 [N].
      semitones: above 0 is higher; 12 make an octave.

    Returns:
      float32 [N].
    """
    if not wave.size or semitones == 0:
        return wave
    ratio = 2 ** (semitones / 12)
    out = change_speed(change_tempo(wave, 1 / ratio), ratio)[: len(wave)]
    return np.pad(out, (0, len(wave) - len(out)))
