"""Lossy codecs: what a voice message or an old recording went through."""

import io

import numpy as np
import soundfile

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment.channel import code_mu_law

# Kilobits a second that libsndfile maps its compression levels 0 and 1 to, at 16 kHz.
_MP3_RATES, _OPUS_RATES = (160.0, 8.0), (256.0, 6.0)
# Samples by which an encoder and a decoder of MP3 delay, where the file has no tag that tells the
# decoder to leave them out: files of few bits have none, as its frame would be too small.
_MP3_DELAY = 1105


def code_mp3(wave: np.ndarray, kbps: float) -> np.ndarray:
    """Code and decode as MP3 at a constant bit rate.

    Args:
      wave: float32 [N]; samples beyond [-1, 1] are clipped.
      kbps: kilobits a second, from 8 to 160; the nearest of the format's steps is taken.

    Returns:
      float32 [N] without delay.
    """
    # libsndfile refuses the level 1 itself.
    level = min(0.99, _level(kbps, _MP3_RATES))
    out = _through(wave, "MP3", "MPEG_LAYER_III", level, bitrate_mode="CONSTANT")
    if len(out) > len(wave):
        out = out[_MP3_DELAY:]
    return _fit(out, len(wave))


def code_opus(wave: np.ndarray, kbps: float) -> np.ndarray:
    """Code and decode as Opus at a variable bit rate.

    Args:
      wave: float32 [N]; samples beyond [-1, 1] are clipped.
      kbps: kilobits a second to aim at, from 6 to 256.

    Returns:
      float32 [N] without delay.
    """
    return _fit(_through(wave, "OGG", "OPUS", _level(kbps, _OPUS_RATES)), len(wave))


def code_wide_mu_law(wave: np.ndarray, kbps: float) -> np.ndarray:
    """Code and decode in 8 bits by the mu-law, at 16 kHz.

    Args:
      wave: float32 [N]; samples beyond [-1, 1] are clipped.
      kbps: not used: it is always 128.

    Returns:
      float32 [N].
    """
    del kbps
    return code_mu_law(wave).astype(np.float32)


CODECS = {"mp3": code_mp3, "opus": code_opus, "mu_law": code_wide_mu_law}


def _level(kbps: float, rates: tuple[float, float]) -> float:
    most, least = rates
    return min(1.0, max(0.0, (most - kbps) / (most - least)))


def _through(wave: np.ndarray, form: str, subtype: str, level: float, **options) -> np.ndarray:
    if not wave.size:
        return wave
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", SAMPLE_RATE, 1, subtype, format=form, compression_level=level, **options
    ) as out:
        out.write(np.clip(wave, -1, 1))
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def _fit(out: np.ndarray, length: int) -> np.ndarray:
    return np.pad(out[:length], (0, max(0, length - len(out))))
