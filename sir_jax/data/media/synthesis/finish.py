"""What every engine's sound goes through: trimmed, resampled, levelled; and its FLAC file."""

import io

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000

_PEAK = 0.89
_RMS = 0.1
# Samples below this share of the peak are silence. At either end, so many seconds of it are kept.
_SILENCE = 0.01
_MARGIN_SECONDS = 0.06


def finish(sound: np.ndarray, rate: int) -> np.ndarray:
    """Trim one utterance, resample it to 16 kHz and level it.

    Args:
      sound: int16 [M] at `rate` Hz, not all zero.
      rate: in Hz.

    Returns:
      int16 [N] with an RMS of 0.1 of full scale, or less if the peak would exceed 0.89.
    """
    loudness = np.abs(sound.astype(np.int32))
    heard = np.flatnonzero(loudness > _SILENCE * loudness.max())
    margin = int(_MARGIN_SECONDS * rate)
    sound = sound[max(0, heard[0] - margin) : heard[-1] + 1 + margin]
    wave = soxr.resample(sound.astype(np.float32), rate, SAMPLE_RATE, quality="HQ")
    # Levelled after resampling, which can raise the peak.
    gain = min(_PEAK / np.abs(wave).max(), _RMS / np.sqrt(np.mean(np.square(wave))))
    return np.round(wave * (gain * 32767)).astype(np.int16)


def encode_flac(wave: np.ndarray) -> bytes:
    """Encode int16 [N] at 16 kHz as FLAC."""
    stream = io.BytesIO()
    soundfile.write(stream, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
