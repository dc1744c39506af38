"""The engines by name: which are here, and speech by any of them."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from sir_jax.data.media.synthesis.espeak_ng import espeak, require_espeak
from sir_jax.data.media.synthesis.flite import find_flite, flite
from sir_jax.data.media.synthesis.mbrola import find_mbrola, mbrola
from sir_jax.data.media.synthesis.piper import find_voice, piper, require_piper
from sir_jax.data.media.synthesis.voices import PIPER
from sir_jax.errors import UserError


class Engine(Protocol):
    """What every engine is: a name, and speech. A process has one of each."""

    name: str

    def speak(
        self, text: str, voice: str, rate: float = 170, pitch: float = 50, language: str = "en"
    ) -> np.ndarray:
        """Speak a text.

        Args:
          text: in the voice's language.
          voice: the engine's name of the voice.
          rate: words per minute, where 170 is a voice's own speed.
          pitch: 0 to 99, where 50 is a voice's own.
          language: BCP 47; for eSpeak NG the language of a voice that names none.

        Returns:
          int16 [N] at 16 kHz, with 0.06 s of silence at either end.

        Raises:
          UserError: the engine has no such voice or language.
          RuntimeError: it gave no sound.
        """


def _require_piper() -> None:
    require_piper()
    for voice in PIPER:
        find_voice(voice.name)


# How each engine is started, and what raises a UserError where it is missing.
_START: dict[str, tuple[Callable[[], Engine], Callable]] = {
    "espeak": (espeak, require_espeak),
    "flite": (flite, find_flite),
    "mbrola": (mbrola, find_mbrola),
    "piper": (piper, _require_piper),
}
ENGINES = tuple(_START)


def _of(name: str) -> tuple[Callable[[], Engine], Callable]:
    if name not in _START:
        raise UserError(
            f"there is no speech synthesiser {name!r}; choose among {', '.join(ENGINES)}"
        )
    return _START[name]


def engine(name: str) -> Engine:
    """Return this process' engine of a name, started at the first call.

    Raises:
      UserError: there is none of that name, or it is not installed.
    """
    return _of(name)[0]()


def require_engine(name: str) -> None:
    """Check that an engine and its voices of the table are installed, without starting it.

    Raises:
      UserError: there is none of that name, or it is not installed.
    """
    _of(name)[1]()


def _missing(name: str) -> str:
    try:
        require_engine(name)
    except UserError as error:
        return str(error)
    return ""


def missing_engines() -> dict[str, str]:
    """Return the engines that are not installed, with a line on how to install each."""
    return {name: why for name in ENGINES if (why := _missing(name))}
