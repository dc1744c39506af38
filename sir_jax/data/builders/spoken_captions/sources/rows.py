"""Captions as a source states them, and which of its columns hold what."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sir_jax.data.builders.recordings import Problem
from sir_jax.data.builders.voices.config import is_of
from sir_jax.data.media.synthesis import speaks
from sir_jax.data.media.synthesis.espeak_voices import languages as espeak_languages

# What columns are called, the first one that is there counts.
PICTURE = (
    *("image", "picture", "file_name", "filename", "file", "path", "img", "photo"),
    *("image_path", "image_file", "image_name", "picture_path", "filepath"),
)
TEXT = (
    *("caption", "captions", "text", "texts", "sentence", "sentences", "raw", "description"),
    *("alt_text", "alt", "comment", "label", "title", "name"),
)
LANGUAGE = ("language", "lang", "locale")
SPLIT = ("split", "subset", "partition")
# Codes of languages that columns have for other reasons.
_OTHERWISE = ("id", "no", "nr")
_CODE = r"[A-Za-z]{2,3}(?:[-_][A-Za-z]{2,4})?"
_TEXTS = "|".join(TEXT)
_OF_LANGUAGE = re.compile(
    rf"(?:{_TEXTS})[_.\- ](?P<after>{_CODE})|(?P<before>{_CODE})[_.\- ](?:{_TEXTS})", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True, slots=True)  # there may be a million of them
class Row:
    """One caption as its source states it."""

    where: str  # such as 'captions.csv:7'
    picture: str  # as it is written there
    text: str
    language: str = ""  # BCP 47; '' if the source does not say
    split: str = ""  # likewise


@dataclasses.dataclass
class Found:
    """What a source holds.

    Attributes:
      rows: the captions.
      problems: what cannot be read as a caption.
      notes: lines that are worth knowing.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def wrong(self, where: str, why: str) -> None:
        """Add a problem of the source itself."""
        self.problems.append(Problem(where, "bad metadata", why))


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what; '' where there is none.

    Attributes:
      picture: the name of the picture.
      text: the caption, or several.
      language: the language of `text`.
      split: the split.
      texts: captions by the column of their language: column -> language.
      unused: all others.
    """

    picture: str
    text: str
    language: str
    split: str
    texts: dict[str, str]
    unused: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str], chosen: Sequence[str] = ()) -> "Columns":
        """Find out what columns hold.

        Args:
          names: of the columns.
          chosen: languages that are asked for; none for all.
        """
        plain = {name.strip().lower(): name for name in reversed(names)}
        picture, text, language, split = (
            next((plain[name] for name in known if name in plain), "")
            for known in (PICTURE, TEXT, LANGUAGE, SPLIT)
        )
        texts = {}
        for name in names:
            code = _language_of(name.strip(), chosen, bare=not text)
            if code and name not in (picture, text, language, split):
                texts[name] = code
        used = {picture, text, language, split, *texts}
        return cls(picture, text, language, split, texts, tuple(n for n in names if n not in used))


class Reader:
    """Makes rows of records, which are dicts of column and value, into `Found`.

    Args:
      found: gets the rows and the problems.
      chosen: languages that are asked for; none for all.
      name: of the source, for notes.
    """

    def __init__(self, found: Found, chosen: Sequence[str], name: str):
        self._found, self._chosen, self._name = found, tuple(chosen), name
        self._unused: dict[str, None] = {}
        self._empty: dict[str, int] = {}

    def add(self, where: str, record: dict[str, Any], picture: str = "", split: str = "") -> None:
        """Add the captions of a record.

        Args:
          where: it stands.
          record: by the names of the columns.
          picture: its name, where no column holds it.
          split: likewise.
        """
        columns = _columns(tuple(record), self._chosen)
        self._unused |= dict.fromkeys(columns.unused)
        picture = picture or _word(record.get(columns.picture))
        split = split or _word(record.get(columns.split))
        if not picture:
            self._found.wrong(where, "it names no picture")
            return
        count = 0
        for code, column in [("", columns.text), *((c, n) for n, c in columns.texts.items())]:
            if not column:
                continue
            stated = code or language_code(_word(record.get(columns.language)))
            texts = list(_texts(record[column], stated))
            if code and not any(text.strip() for _, text in texts):
                self._empty[column] = self._empty.get(column, 0) + 1
                continue
            for language, text in texts:
                count += 1
                self._found.rows.append(Row(where, picture, text, language, split))
        if not count and not columns.texts:
            self._found.wrong(where, f"no caption of {picture}")

    def close(self) -> None:
        """Add notes of what was not used."""
        for column, count in self._empty.items():
            self._found.notes.append(
                f"{self._name}: {count:,} pictures have nothing in column {column!r}"
            )
        if self._unused:
            names = ", ".join(map(repr, self._unused))
            self._found.notes.append(f"{self._name}: not used: {names}")


@functools.lru_cache(maxsize=1024)
def language_code(word: str) -> str:
    """Return a language's code as BCP 47 writes it; of another word, the word itself.

    Args:
      word: a code, a POSIX locale, or the English name of a language of eSpeak NG.

    Example:
      >>> language_code("PT_br"), language_code("sr-latn"), language_code("Greek")
      ('pt-BR', 'sr-Latn', 'el')
    """
    word = word.strip()
    named = {entry.name.lower(): code for code, entry in espeak_languages().items()}
    if word.lower() in named:
        return named[word.lower()]
    first, *others = re.split("[-_]", re.sub(r"[.@].*", "", word))
    forms = {2: str.upper, 4: str.title}
    return "-".join([first.lower(), *(forms.get(len(o), str.lower)(o) for o in others)])


@functools.lru_cache(maxsize=1024)
def _columns(names: tuple[str, ...], chosen: tuple[str, ...]) -> Columns:
    return Columns.of(names, chosen)


def _language_of(column: str, chosen: Sequence[str], bare: bool) -> str:
    """Return the language that a column's name states; '' if it states none.

    Args:
      column: its name.
      chosen: languages that are asked for; none for all.
      bare: whether a code alone counts, though nobody asked for it.
    """
    match = _OF_LANGUAGE.fullmatch(column)
    if match:
        code = language_code(match["after"] or match["before"])
    elif re.fullmatch(_CODE, column):
        code = language_code(column)
        if not chosen and (not bare or code in _OTHERWISE):
            return ""
        if chosen and not is_of(code, tuple(chosen)):
            return ""
    else:
        return ""
    return code if match or chosen or speaks("espeak", code) else ""


def _word(value: Any) -> str:
    return str(value).strip() if isinstance(value, str | int) else ""


def _texts(value: Any, language: str) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of what a column holds: a text, several, or some by language."""
    if isinstance(value, dict):
        inside = next((key for key in TEXT if key in value), None)
        if inside is not None:
            yield from _texts(value[inside], language)
        else:
            for code, texts in value.items():
                yield from _texts(texts, language_code(str(code)))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, language)
    # A number is the number of a class, which no one would say.
    elif isinstance(value, str):
        yield language, value
