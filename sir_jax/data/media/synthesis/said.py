"""A typed text as a spoken query: the same words by several voices, whose vectors are averaged."""

import dataclasses
import difflib
import itertools
import json
import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence

import numpy as np

from sir_jax.data.media.synthesis.engines import ENGINES, require_engine
from sir_jax.data.media.synthesis.espeak_voices import languages, resolve_language
from sir_jax.data.media.synthesis.mbrola import has_voice
from sir_jax.data.media.synthesis.piper import find_voice, folder_voices, require_piper
from sir_jax.data.media.synthesis.speaker import REPLY
from sir_jax.data.media.synthesis.voice import Voice
from sir_jax.data.media.synthesis.voices import voices_of
from sir_jax.errors import UserError

MOST_LETTERS = 500  # half a minute of speech
LANGUAGE, VOICES, MOST_VOICES = "en", 6, 24
SPEAKER = "sir_jax.data.media.synthesis.speaker"
SECONDS = 40.0  # until who has not spoken yet is left out


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
    """A text as several voices say it: one query, whose vector is the mean of their vectors.

    Attributes:
      text: what is said.
      language: its code, as eSpeak NG spells it.
      voices: who says it.
      clips: int16 [N] at 16 kHz of each voice.
    """

    text: str
    language: str
    voices: tuple[Voice, ...]
    clips: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return f"Said({self.text!r}, {self.language!r}, {len(self.voices)} voices)"

    @property
    def waves(self) -> list[np.ndarray]:
        """Return float32 [N] at 16 kHz of each voice."""
        return [clip.astype(np.float32) / 32768 for clip in self.clips]


def say(
    text: str,
    language: str = LANGUAGE,
    *,
    voices: int = VOICES,
    engines: Sequence[str] = ENGINES,
) -> Said:
    """Say a text by several voices of the speech synthesisers that are installed.

    The voices of the engines take turns, and those that encoders have heard in training come first.
    The same text gives the same query, but with Piper, whose voices draw noise.

    Args:
      text: at most `MOST_LETTERS` letters.
      language: BCP 47, a POSIX locale, or the English name of the language.
      voices: how many speak, where there are so many.
      engines: who may speak: 'espeak' (extra `synth`), 'flite', 'mbrola', 'piper'.

    Returns:
      A query for `Index.search`, and a clip for `Retriever.encode_speech`.

    Raises:
      UserError: there is nothing to be said, it is too long, no engine here speaks the language, or
        no voice gave a sound.

    Example:
      >>> said = say("a red fish", "English", voices=2, engines=["espeak"])
      >>> said
      Said('a red fish', 'en', 2 voices)
      >>> [voice.name for voice in said.voices]
      ['en-us+m1', 'en+f1']
    """
    words = check_text(text)
    code = language_code(language)
    if not isinstance(voices, int) or not 1 <= voices <= MOST_VOICES:
        raise UserError(f"voices is {voices!r}; give a whole number from 1 to {MOST_VOICES}")
    speakers = choose_voices(code, words, voices, engines)
    heard, reason = _speak(words, code, speakers)
    if not heard:
        raise UserError(f"no voice can say {_short(words)} in {code} ({reason}); give other words")
    return Said(words, code, *zip(*heard, strict=True))


def check_text(text: str) -> str:
    """Return a text with single spaces, and nothing in it that cannot be said.

    Raises:
      UserError: it is empty, too long, or has neither letter nor digit.
    """
    if not isinstance(text, str):
        raise UserError(f"the text is a {type(text).__name__}; give words to be said, as a string")
    if len(text) > MOST_LETTERS:
        raise UserError(f"the text has {len(text):,} letters; give at most {MOST_LETTERS}")
    # Control codes, halves of surrogate pairs, and code points that stand for nothing.
    kept = (" " if unicodedata.category(each) in ("Cc", "Cs", "Cn") else each for each in text)
    words = " ".join("".join(kept).split())
    if not words:
        raise UserError("the text is empty; give words to be said")
    if not any(map(str.isalnum, words)):
        raise UserError(f"the text {_short(words)} has no letter and no digit; give words")
    return words


def language_code(language: str) -> str:
    """Return the code of a language, as eSpeak NG spells it.

    Args:
      language: BCP 47, a POSIX locale, or the English name.

    Raises:
      UserError: no engine speaks it.
    """
    names = _names()
    given = language.strip().lower()
    if code := names.get(given) or resolve_language(given):
        return code
    known = [code for code, entry in languages().items() if not entry.left_out]
    near = difflib.get_close_matches(given, names, 1, 0.75) if len(given) > 3 else []
    remedy = (
        f"did you mean {near[0].title()} ({names[near[0]]})?"
        if near
        else f"give one of {', '.join(known)}"
    )
    raise UserError(f"no synthesiser speaks the language {_short(language)}; {remedy}")


def _names() -> dict[str, str]:
    """Return the English names of languages, with and without their region, -> the code."""
    names: dict[str, str] = {}
    for code, entry in sorted(languages().items(), key=lambda item: (len(item[0]), item[0])):
        names.setdefault(entry.name.lower(), code)
        names.setdefault(entry.name.partition(" (")[0].lower(), code)
    return names


def spoken_languages() -> dict[str, str]:
    """Return the languages that an engine here speaks: code -> English name, sorted by name."""
    spoken = {code: entry.name for code, entry in languages().items() if not entry.left_out}
    spoken[LANGUAGE] = "English"  # of all accents
    if _why_missing("espeak"):
        others = [name for name in ENGINES if name != "espeak"]
        here = {voice.language for name in others for voice in _all_voices(name)}
        spoken = {code: name for code, name in spoken.items() if code in here}
    return dict(sorted(spoken.items(), key=lambda item: item[1]))


def choose_voices(
    language: str, text: str, count: int = VOICES, engines: Sequence[str] = ENGINES
) -> list[Voice]:
    """Return the voices that say a text.

    Args:
      language: a code, see `language_code`.
      text: see `check_text`.
      count: of voices, where there are so many.
      engines: who may speak.

    Raises:
      UserError: an engine is unknown, or none that is here speaks the language.
    """
    turns, missing = [], []
    for name in engines:
        if why := _why_missing(name):
            missing.append(why)
        elif name == "flite" and not _is_latin(text):
            missing.append("flite says Latin letters alone")
        else:
            found = _voices_in(name, language)
            # A search is no evaluation: voices that encoders have met are understood best.
            turns.append(sorted(found, key=lambda voice: voice.split != "train"))
    taken = [voice for turn in itertools.zip_longest(*turns) for voice in turn if voice]
    if not taken:
        entry = languages()[language]
        why = entry.left_out or next(iter(missing), f"not {' nor '.join(engines)}")
        name = entry.name.partition(" (")[0]
        raise UserError(f"nothing here speaks {name} ({language}): {why}")
    return taken[:count]


def _why_missing(name: str) -> str:
    """Return how to install an engine; '' where it is here and has a voice."""
    try:
        if name == "piper":
            require_piper()
            if folder_voices():
                return ""
        require_engine(name)
    except UserError as error:
        if name not in ENGINES:
            raise
        return str(error)
    return ""


def _voices_in(name: str, language: str) -> tuple[Voice, ...]:
    if name == "piper":
        family = language.partition("-")[0]
        return tuple(v for v in _all_voices(name) if v.language.partition("-")[0] == family)
    try:
        voices = voices_of(name, language)
    except UserError:
        return ()
    return tuple(v for v in voices if name != "mbrola" or has_voice(v.name))


def _all_voices(name: str) -> tuple[Voice, ...]:
    """Return the voices that are here of an engine other than eSpeak NG."""
    if _why_missing(name):
        return ()
    if name != "piper":
        return tuple(v for v in voices_of(name, "") if name != "mbrola" or has_voice(v.name))
    packaged = []
    for voice in voices_of(name):
        try:
            find_voice(voice.name)
            packaged.append(voice)
        except UserError:
            pass
    known = {voice.name for voice in packaged}
    own = folder_voices()
    return (*packaged, *(Voice("piper", key, own[key], "") for key in own if key not in known))


def _speak(
    text: str, language: str, voices: Sequence[Voice]
) -> tuple[list[tuple[Voice, np.ndarray]], str]:
    """Return what each voice said, without those that gave no sound, and why the last gave none."""
    heard, reason = [], ""
    pending, deadline = list(voices), time.monotonic() + SECONDS
    while pending and (left := deadline - time.monotonic()) > 0:
        replies = _ask(text, language, pending, left)
        for voice, (spoke, body) in zip(pending, replies, strict=False):
            if spoke:
                heard.append((voice, np.frombuffer(body, np.int16)))
            else:
                reason = " ".join(body.decode("utf-8", "replace").split())
        if len(replies) < len(pending):
            stopped = pending[len(replies)]
            reason = f"{stopped.engine} stopped at it"
        pending = pending[len(replies) + 1 :]  # after who has ended the process
    return heard, reason


def _ask(
    text: str, language: str, voices: Sequence[Voice], seconds: float
) -> list[tuple[bool, bytes]]:
    """Return the replies of a fresh `speaker`; fewer than voices where it died or was too slow."""
    request = dict(text=text, language=language, voices=[*map(dataclasses.asdict, voices)])
    command = [sys.executable, "-P", "-m", SPEAKER]
    try:
        run = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries print warnings
            timeout=seconds,
            check=False,
        )
        said = run.stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    replies = []
    while len(said) >= REPLY.size:
        spoke, size = REPLY.unpack_from(said)
        body, said = said[REPLY.size : REPLY.size + size], said[REPLY.size + size :]
        if len(body) == size:
            replies.append((spoke, body))
    return replies


def _is_latin(text: str) -> bool:
    """Tell whether half of a text is in letters of English.

    flite leaves out all others, and makes a noise where none is left.
    """
    letters = [each for each in text if each.isalnum()]
    return 2 * sum(map(str.isascii, letters)) >= len(letters)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
