"""Read the Debian package of Tux Paint's stamps: pictures, their names, and who says them."""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from sir_jax.data.builders.publisher import is_junk
from sir_jax.data.builders.recordings import Problem
from sir_jax.data.builders.tux_paint_stamps.debian import package_part

PACKAGE = "tuxpaint-stamps-default"
PART = "usr/share/tuxpaint/stamps"
# Of a stamp that has both, the first: drawn by its artist at the size at which it is shown.
PICTURES = (".png", ".svg")
_SOUNDS = (".ogg", ".wav")
# Of a picture that is not simply mirrored, because of a text in it, this one is its mirror image.
_MIRROR = "_mirror"
# POSIX writes variants of languages as BCP 47 does not.
_VARIANTS = {"valencia": "valencia", "latin": "Latn"}
_LANGUAGE = r"[a-z]{2,3}(?:_[A-Za-z]{2})?"
_NAME = re.compile(rf"(?P<stem>.+?)_desc(?:_(?P<language>{_LANGUAGE}))?")
_SOUND = re.compile(rf"(?P<stem>.+?)_(?P<language>{_LANGUAGE})")
_TRANSLATION = re.compile(r"(?P<locale>[A-Za-z_@]+)\.utf8=(?P<text>.*)")


@dataclasses.dataclass
class Stamp:
    """One picture with its names.

    Attributes:
      name: path of its files without suffix, such as 'animals/birds/duck'.
      picture: path of its picture, relative to the source's folder.
      texts: its names by language (BCP 47); a name may be empty.
      recordings: (language, path) of each recording of a name, relative to the source's folder.
    """

    name: str
    picture: str
    texts: dict[str, str]
    recordings: list[tuple[str, str]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Stamps:
    """What the package holds.

    Attributes:
      stamps: the pictures with names, sorted.
      problems: what is left out, by the language of a recording or ''.
    """

    stamps: list[Stamp]
    problems: list[tuple[str, Problem]]


def language_tag(locale: str) -> str:
    """Return the BCP 47 tag of a POSIX locale.

    Example:
      >>> language_tag("zh_tw"), language_tag("sr@latin")
      ('zh-TW', 'sr-Latn')
    """
    place, _, variant = locale.partition("@")
    language, _, region = place.partition("_")
    parts = [language.lower(), region.upper(), _VARIANTS.get(variant, variant)]
    return "-".join(part for part in parts if part)


def clean_text(text: str) -> str:
    """Return a text in one line and in Unicode's composed form, without remarks in brackets."""
    text = re.sub(r"\([^)]*\)|\[[^\]]*\]|\{[^}]*\}", " ", unicodedata.normalize("NFC", text))
    return " ".join(text.replace("…", " ").replace("...", " ").split()).strip(" \"'“”«»–—-|")


def read_stamps(folder: Path) -> Stamps:
    """Read the package.

    Args:
      folder: holds the unpacked package.

    Raises:
      UserError: the package is not there, or half unpacked.
    """
    root = package_part(folder, PACKAGE, PART)
    prefix = f"{root.relative_to(folder).as_posix()}/"
    files = sorted(_files(root))
    stems = {}
    for suffix in reversed(PICTURES):
        stems |= {_stem(path): path for path in files if path.lower().endswith(suffix)}
    problems, stamps = [], {}
    for stem, path in sorted(stems.items()):
        if stem.endswith(_MIRROR):
            detail = (
                f"the mirror image of {stem.removesuffix(_MIRROR)}, which has no name of its own"
            )
            problems.append(("", Problem(prefix + path, "no audio", detail, key=stem)))
            continue
        texts, fault = _read_texts(root / f"{stem}.txt")
        if fault:
            problems.append(("", Problem(f"{prefix}{stem}.txt", "bad metadata", fault, key=stem)))
        stamps[stem] = Stamp(stem, prefix + path, texts)
    _add_recordings(stamps, files, prefix, problems)
    return Stamps(list(stamps.values()), problems)


def _add_recordings(
    stamps: dict[str, Stamp],
    files: list[str],
    prefix: str,
    problems: list[tuple[str, Problem]],
) -> None:
    # A few names of recordings are spelt in another case than their picture's.
    folded = {stem.lower(): stem for stem in stamps}
    languages = {language for stamp in stamps.values() for language in stamp.texts}
    for path in files:
        if not path.lower().endswith(_SOUNDS):
            continue
        stem, language = _named(_stem(path), folded, languages)
        if language is None:
            continue
        if stem in folded:
            stamps[folded[stem]].recordings.append((language, prefix + path))
        else:
            detail = "the package has no picture of this name"
            problems.append((language, Problem(prefix + path, "no image", detail, key=path)))


def _named(stem: str, folded: dict[str, str], languages: set[str]) -> tuple[str, str | None]:
    """Return the stem, in lower case, and language of a recording; None for the sound of a thing.

    A sound that comes in several languages is speech, too: digits and letters.
    """
    if match := _NAME.fullmatch(stem):
        return match["stem"].lower(), language_tag(match["language"] or "en")
    match = _SOUND.fullmatch(stem)
    if match and match["stem"].lower() in folded and stem.lower() not in folded:
        language = language_tag(match["language"])
        return match["stem"].lower(), language if language in languages else None
    return stem.lower(), None


def _read_texts(path: Path) -> tuple[dict[str, str], str]:
    """Return the names by language, and what is wrong with the file; '' if nothing is."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}, "its picture has no names"
    text, fault = data.decode("utf-8-sig", errors="replace"), ""
    if "�" in text:
        fault = "not UTF-8; the letters in question are replaced"
    lines = text.split("\n")
    texts = {"en": clean_text(lines[0])}
    for line in lines[1:]:
        if match := _TRANSLATION.fullmatch(line.strip()):
            texts[language_tag(match["locale"])] = clean_text(match["text"])
    return texts, fault


def _files(root: Path) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not is_junk(name)]
        for name in names:
            if not is_junk(name):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _stem(path: str) -> str:
    """Return a path without its suffix, which one file has twice."""
    suffix = path[path.rfind(".") :]
    while path.lower().endswith(suffix.lower()):
        path = path[: -len(suffix)]
    return path
