"""Speech synthesis by eSpeak NG, with the library in the espeakng-loader wheel.

eSpeak NG keeps state between utterances: the same text does not always give the same samples. So
corpora store the audio, and no test compares its bytes.
"""

import ctypes
import io

import numpy as np
import soundfile
import soxr

from sir_jax.errors import UserError

SAMPLE_RATE = 16_000

# Constants of speak_lib.h.
_SYNCHRONOUS = 2
_RATE, _VOLUME, _PITCH = 1, 2, 3
_UTF8 = 1
_BUFFER_MS = 1000

_PEAK = 0.89
_RMS = 0.1
# Samples below this share of the peak are silence. At either end, so many seconds of it are kept.
_SILENCE = 0.01
_MARGIN_SECONDS = 0.06

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def require_synthesiser():
    """Return the espeakng_loader module.

    Raises:
      UserError: it is not installed.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "the speech synthesiser espeakng-loader is not installed; "
            "run: pip install 'sir_jax[synth]'"
        ) from None
    return espeakng_loader


class Synthesiser:
    """The eSpeak NG engine. A process can have only one.

    Raises:
      UserError: espeakng-loader is not installed.
    """

    def __init__(self):
        espeakng_loader = require_synthesiser()
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, 0)
        if self._rate <= 0:
            raise UserError(f"eSpeak NG cannot read its data at {data.decode()}; reinstall it")
        self._parts: list[np.ndarray] = []
        # The library keeps a bare pointer to the callback, so this object must keep it alive.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, _events) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def speak(self, text: str, speaker: str, rate: int, pitch: int) -> np.ndarray:
        """Speak a text.

        Args:
          text: English text.
          speaker: an eSpeak NG voice, 'accent+variant'.
          rate: words per minute.
          pitch: 0 to 99; 50 is the variant's default.

        Returns:
          int16 [N] at 16 kHz, with 0.06 s of silence at either end.

        Raises:
          RuntimeError: eSpeak NG does not know the voice, or returned no sound.
        """
        if self._library.espeak_SetVoiceByName(speaker.encode()) != 0:
            raise RuntimeError(f"eSpeak NG has no voice {speaker!r}")
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        # At the default volume of 100 some variants clip inside the engine.
        self._library.espeak_SetParameter(_VOLUME, 50, 0)
        encoded = text.encode() + b"\0"
        self._parts.clear()
        self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, _UTF8, None, None
        )
        self._library.espeak_Synchronize()
        sound = np.concatenate(self._parts) if self._parts else np.zeros(0, np.int16)
        if not sound.any():
            raise RuntimeError(f"eSpeak NG gave no sound for {text!r} by {speaker!r}")
        return _finish(sound, self._rate)


def _finish(sound: np.ndarray, rate: int) -> np.ndarray:
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
