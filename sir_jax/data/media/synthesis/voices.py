"""Which voices there are, and the split of each, for good.

A voice of one split never speaks in another split of any corpus. Piper's `joe` and flite's `awb`
are of the split 'test' alone: they tell how an encoder hears engines and people it has not met. Of
MBROLA's voices some are, where a language has three or more.
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
# Language -> voices, each a person whose recorded sounds are joined; '-' marks one of the split
# 'test', '+' one of 'val'. Variants of a language that are spoken alike stand together.
_MBROLA = {
    "af": "af1",
    "ar": "ar1 ar2",
    "cs": "cz1 cz2",
    "de": "de1 de2 de3 -de4 de5 de6 de7 +de8",
    "el": "gr1 gr2",
    "en": "en1 us1 -us2 us3",
    "es": "es1 es2 es3 -es4 mx1 +mx2 vz1",
    "et": "ee1",
    "fa": "ir1",
    "fr": "fr1 fr2 fr3 -fr4 fr5 fr6 +fr7 ca1 ca2",
    "hi": "in1 in2",
    "hr": "cr1",
    "hu": "hu1",
    "id": "id1",
    "is": "ic1",
    "it": "it1 it2 +it3 -it4",
    "la": "la1",
    "lt": "lt1 lt2",
    "ms": "ma1",
    "nl": "nl1 nl2 -nl3",
    "pl": "pl1",
    "pt": "pt1",
    "pt-br": "br1 br2 +br3 -br4",
    "ro": "ro1",
    "sv": "sw1 sw2",
    "te": "tl1",
    "tr": "tr1 tr2",
}
_MARKS = {"-": "test", "+": "val"}
MBROLA = tuple(
    Voice("mbrola", name.lstrip("-+"), language, _MARKS.get(name[0], "train"), rate=155)
    for language, names in _MBROLA.items()
    for name in names.split()
)
_TABLES = {"flite": FLITE, "mbrola": MBROLA, "piper": PIPER}


def voices_of(engine: str, language: str = "en", split: str = "") -> tuple[Voice, ...]:
    """Return the voices of an engine that speak a language in a split.

    Args:
      engine: 'espeak' or a key of the other tables.
      language: BCP 47 or a POSIX locale, such as 'en', 'fr' or 'pt_BR'; '' for all of an engine
        other than eSpeak NG.
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
        voices = tuple(v for v in _TABLES[engine] if not language or v.language == code)
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
