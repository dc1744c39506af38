"""eSpeak NG, with the library in the espeakng-loader wheel: speech and phonemes, 140 languages.

eSpeak NG keeps state between utterances: the same text does not always give the same samples. So
corpora store the audio, no test compares its bytes, and what must be the same on every run speaks
in a process of its own.
"""

import concurrent.futures
import ctypes
import functools
import multiprocessing
import re
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from sir_jax.data.media.synthesis.finish import finish
from sir_jax.data.media.synthesis.voice import resolve
from sir_jax.errors import UserError

# Constants of speak_lib.h.
_SYNCHRONOUS = 2
_RATE, _VOLUME, _PITCH = 1, 2, 3
_UTF8 = 1
_BUFFER_MS = 1000
# Phonemes as IPA, with a character between two of them.
_SEPARATOR = "_"
_IPA = 0x02 | ord(_SEPARATOR) << 8

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
# '(en)' where a word of another language begins, and '(fr)' where it ends.
_SWITCH = re.compile(r"\([^)]*\)")
# Stress, tone numbers, and the hyphen of words that are said as one.
_NO_SOUND = re.compile(r"[ˈˌ\d-]")


class _Voice(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("unused", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


def require_espeak():
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


class Espeak:
    """The eSpeak NG engine. A process can have only one.

    A voice is 'accent+variant' such as 'en-us+m2', or a variant alone, such as 'm2', that speaks
    `language`. The rate is in words per minute, the pitch from 0 to 99; 50 is the variant's own.

    Raises:
      UserError: espeakng-loader is not installed.
    """

    name = "espeak"

    def __init__(self):
        espeakng_loader = require_espeak()
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        # The library takes the plain voice, and says nothing, where it does not know the variant.
        self._variants = {path.name for path in Path(data.decode(), "voices", "!v").iterdir()}
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, 0)
        if self._rate <= 0:
            raise UserError(f"eSpeak NG cannot read its data at {data.decode()}; reinstall it")
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self._parts: list[np.ndarray] = []
        # The library keeps a bare pointer to the callback, so this object must keep it alive.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, _events) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def _set_voice(self, voice: str) -> None:
        variant = voice.partition("+")[2]
        known = not variant or variant in self._variants
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(
                f"eSpeak NG has no voice {voice!r}; give 'language+variant', such as 'en-us+m2'"
            )

    @functools.cached_property
    def languages(self) -> dict[str, str]:
        """Return the languages: code, as captions state it and voices begin, -> English name."""
        return {_code(voice): voice.name.decode().strip() for voice in self._voices()}

    @functools.cached_property
    def families(self) -> dict[str, str]:
        """Return the family of each language, such as 'roa' or 'art' (constructed); '' if none."""
        return {_code(v): v.identifier.decode().rpartition("/")[0] for v in self._voices()}

    @functools.cached_property
    def codes(self) -> dict[str, str]:
        """Return every code that eSpeak NG knows for a language -> the key of `languages`."""
        claims = {code: (0, code) for code in self.languages}
        for voice in self._voices():
            for priority, code in _claimed(voice):
                claims[code] = min((priority, _code(voice)), claims.get(code, (256, "")))
        return {code: best for code, (_, best) in claims.items()}

    def _voices(self):
        listed = self._library.espeak_ListVoices(None)
        number = 0
        while listed[number]:
            yield listed[number].contents
            number += 1

    def language(self, code: str) -> str:
        """Return the key of `languages` that a code means.

        Args:
          code: BCP 47 or a POSIX locale; see `resolve`.

        Raises:
          UserError: eSpeak NG does not speak the language.
        """
        if meant := resolve(code, self.codes):
            return meant
        known = ", ".join(sorted(self.languages))
        raise UserError(f"eSpeak NG does not speak the language {code!r}; it speaks {known}")

    def speak(
        self, text: str, voice: str, rate: float = 170, pitch: float = 50, language: str = "en"
    ) -> np.ndarray:
        """Speak a text.

        Args:
          text: in the language.
          voice: 'accent+variant', or a variant that speaks `language`.
          rate: words per minute.
          pitch: 0 to 99; 50 is the variant's default.
          language: of a voice without accent.

        Returns:
          int16 [N] at 16 kHz, with 0.06 s of silence at either end.

        Raises:
          UserError: eSpeak NG does not know the voice or the language.
          RuntimeError: it returned no sound.
        """
        speaker = voice if "+" in voice else f"{self.language(language)}+{voice}"
        self._set_voice(speaker)
        self._library.espeak_SetParameter(_RATE, round(rate), 0)
        self._library.espeak_SetParameter(_PITCH, round(pitch), 0)
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
        return finish(sound, self._rate)

    def ipa(self, text: str, language: str) -> str:
        """Return a text's transcription as eSpeak NG writes it: phonemes with '_' between them."""
        self._set_voice(self.language(language))
        # One clause a call; the library moves the pointer to the next one, or to NULL.
        encoded = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(encoded))
        clauses = []
        while rest.value:
            spoken = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
            clauses.append((spoken or b"").decode())
        return " ".join(clause for clause in clauses if clause)

    def phonemes(self, text: str, language: str) -> list[str]:
        """Return the phonemes of a text, in IPA, without stress, tone and word boundaries.

        Args:
          text: in the language. A word that eSpeak NG knows for foreign is said as that language.
          language: see `language`.

        Raises:
          UserError: eSpeak NG does not speak the language.
        """
        plain = _NO_SOUND.sub("", _SWITCH.sub(" ", self.ipa(text, language)))
        # The tone 3 of Chinese, Vietnamese and others is written as the vowel that looks like it.
        phones = (re.sub(r"(?<=.)ɜ+$", "", phone) for phone in re.split(r"[\s_]+", plain))
        return [phone for phone in phones if phone]


def _code(voice: _Voice) -> str:
    # 'roa/pt-BR' is the file of Brazilian Portuguese. Not every voice loads by its first language.
    return voice.identifier.decode().rpartition("/")[2].lower()


def _claimed(voice: _Voice) -> list[tuple[int, str]]:
    """Return the language codes of a voice with their priorities; a low one is a close match."""
    # A byte and a string for each, then a byte of zero.
    claimed, address = [], voice.languages
    while priority := ctypes.string_at(address, 1)[0]:
        code = ctypes.string_at(address + 1)
        claimed.append((priority, code.decode().lower()))
        address += len(code) + 2
    return claimed


@functools.cache
def espeak() -> Espeak:
    """Return this process' engine."""
    return Espeak()


def _transcribe(texts: Sequence[tuple[str, str]]) -> list[list[str]]:
    return [espeak().phonemes(text, language) for text, language in texts]


def _transcribe_apart(texts: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Transcribe in a fresh process; where the library kills it, find out at which text."""
    # `spawn`: a copy of a process whose libraries run threads may hang.
    context = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_transcribe, texts).result()
    except BrokenProcessPool:
        if len(texts) == 1:
            text, language = texts[0]
            raise UserError(
                f"eSpeak NG crashes at the text {text!r} in the language {language!r}; leave it out"
            ) from None
    half = len(texts) // 2
    return [*_transcribe_apart(texts[:half]), *_transcribe_apart(texts[half:])]


def phonemes_of(
    texts: Sequence[tuple[str, str]], workers: int = 1, chunk: int = 2000
) -> list[list[str]]:
    """Return the phonemes of many texts; each chunk of them by a fresh process.

    Args:
      texts: (text, language) pairs; see `Espeak.phonemes`.
      workers: number of processes at a time.
      chunk: texts a process.

    Raises:
      UserError: eSpeak NG is missing, does not speak one of the languages, or crashes at a text.
    """
    require_espeak()
    parts = [list(texts[start : start + chunk]) for start in range(0, len(texts), chunk)]
    with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
        return [phones for part in pool.map(_transcribe_apart, parts) for phones in part]
