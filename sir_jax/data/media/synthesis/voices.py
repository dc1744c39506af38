"""Which voices there are, and the split of each, for good.

A voice of one split never speaks in another split of any corpus. Piper's `joe` and flite's `awb`
are of the split 'test' alone: they tell how an encoder hears engines and people it has not met.
"""

import functools

from sir_jax.data.media.synthesis.espeak_voices import espeak_voices
from sir_jax.data.media.synthesis.voice import Voice, resolve
from sir_jax.errors import UserError

# kal and kal16 are one man, at 8 and 16 kHz, and so stay together.
FLITE = tuple(
    Voice("flite", name, "en", split)
    for name, split in (
        ("kal16", "train"),
        ("slt", "train"),
        ("rms", "train"),
        ("kal", "train"),
        ("awb", "test"),
    )
)
PIPER = (Voice("piper", "en_US-joe-medium", "en", "test"),)
_TABLES = {"flite": FLITE, "piper": PIPER}


def voices_of(engine: str, language: str = "en", split: str = "") -> tuple[Voice, ...]:
    """Return the voices of an engine that speak a language in a split.

    Args:
      engine: 'espeak' or a key of the other tables.
      language: BCP 47 or a POSIX locale, such as 'en', 'fr' or 'pt_BR'.
      split: 'train', 'val' or 'test'; '' for all of them.

    Returns:
      The voices in a fixed order; none if the engine has no voice of that split.

    Raises:
      UserError: the engine is unknown, or does not speak the language.
    """
    if engine == "espeak":
        voices = espeak_voices(language)
    elif engine in _TABLES:
        known = {voice.language: voice.language for voice in _TABLES[engine]}
        code = resolve(language, known)
        voices = tuple(voice for voice in _TABLES[engine] if voice.language == code)
        if not voices:
            raise UserError(
                f"{engine} does not speak the language {language!r}; it speaks {', '.join(known)}"
            )
    else:
        choices = ", ".join(("espeak", *_TABLES))
        raise UserError(f"there is no speech synthesiser {engine!r}; choose among {choices}")
    return tuple(voice for voice in voices if split in ("", voice.split))


@functools.cache
def speaks(engine: str, language: str, split: str = "") -> bool:
    """Tell whether an engine has a voice of a language in a split; arguments are `voices_of`'s."""
    try:
        return bool(voices_of(engine, language, split))
    except UserError:
        return False
