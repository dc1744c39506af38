"""Read the packages of recordings: which file says what, in which language, by whom."""

import dataclasses
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sir_jax.data.builders.tux_paint_stamps.debian import package_part
from sir_jax.data.builders.tux_paint_stamps.package import (
    clean_text,
    language_tag,
    read_stamps,
)
from sir_jax.errors import UserError

_PROMPTS = "usr/share/asterisk/sounds"
# The same prompts in other words, which no file of the package tells.
_UNWRITTEN = "asterisk-prompt-it-menardi-wav"
_LETTERS = "usr/share/klettres"
_DIALOGUES = "usr/share/games/fillets-ng"
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rf"dialogId\(\s*{_QUOTED},\s*{_QUOTED},\s*{_QUOTED}\s*\)\s*dialogStr\(\s*{_QUOTED}\s*\)"
)


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording with its text, which is '' if the package has none."""

    path: str  # relative to the source's folder
    text: str
    language: str  # BCP 47
    speaker: str


def stamp_recordings(folder: Path) -> Iterator[Recording]:
    """Yield the names of Tux Paint's stamps, by amateurs, mostly one a language."""
    for stamp in read_stamps(folder).stamps:
        for language, path in stamp.recordings:
            text = stamp.texts.get(language, "")
            yield Recording(path, text, language, f"{language}/stamps")


def prompt_recordings(folder: Path) -> Iterator[Recording]:
    """Yield the prompts of the telephone exchange Asterisk, by professionals, at 8 kHz."""
    texts = {code: _prompt_texts(folder, code) for code in ("en", "es", "fr", "it", "ru")}
    sounds = [(f"asterisk-core-sounds-{code}-wav", code) for code in texts]
    for package, code in [*sounds, (_UNWRITTEN, "it")]:
        root = package_part(folder, package, _PROMPTS)
        for voice in sorted(path for path in root.iterdir() if path.is_dir()):
            # Such as 'es_MX_f_Allison'.
            locale, name = re.split(r"_[fm]_", voice.name, maxsplit=1)
            language = (
                code if language_tag(locale) == f"{code}-{code.upper()}" else language_tag(locale)
            )
            for path in sorted(voice.rglob("*.wav")):
                key = path.relative_to(voice).with_suffix("").as_posix()
                # Another reader's words are not those of the list.
                text = texts[code].get(key, "") if package != _UNWRITTEN else ""
                yield Recording(_below(path, folder), text, language, f"{language}/{name}")


def letter_recordings(folder: Path) -> Iterator[Recording]:
    """Yield the letters and syllables of KLettres, one or two speakers a language."""
    root = package_part(folder, "klettres-data", _LETTERS)
    for listing in sorted(root.glob("*/sounds.xml")):
        try:
            # The package lists files of its own alone; expat bounds the growth of entities.
            tree = ElementTree.parse(listing)
        except ElementTree.ParseError as error:
            raise UserError(f"{listing}: no XML ({error}); unpack klettres-data again") from None
        language = language_tag(listing.parent.name)
        if not any(listing.parent.rglob("*.ogg")):
            continue  # a language that is listed, of which nothing was recorded
        for sound in tree.iter("sound"):
            path, name = root / sound.get("file", ""), sound.get("name", "")
            # Capitals would be spelt.
            text = clean_text(name if len(name) == 1 else name.lower())
            yield Recording(_below(path, folder), text, language, f"{language}/letters")


def dialogue_recordings(folder: Path) -> Iterator[Recording]:
    """Yield the dialogues of the game Fish Fillets, by actors: two fish and what they meet."""
    scripts = package_part(folder, "fillets-ng-data", f"{_DIALOGUES}/script")
    for language in ("cs", "nl"):
        sounds = package_part(folder, f"fillets-ng-data-{language}", f"{_DIALOGUES}/sound")
        for script in sorted(scripts.glob(f"*/dialogs_{language}.lua")):
            text = script.read_text(encoding="utf-8", errors="replace")
            for key, font, _, words in _LINE.findall(text):
                path = sounds / script.parent.name / language / f"{key}.ogg"
                # What no actor has spoken.
                if path.exists():
                    said = clean_text(re.sub(r"\\(.)", r"\1", words))
                    speaker = f"{language}/{font.removeprefix('font_') or 'others'}"
                    yield Recording(_below(path, folder), said, language, speaker)


READERS = {
    "stamps": stamp_recordings,
    "prompts": prompt_recordings,
    "letters": letter_recordings,
    "dialogues": dialogue_recordings,
}


def _prompt_texts(folder: Path, code: str) -> dict[str, str]:
    """Return the texts of the prompts by the path of the recording without suffix."""
    package = f"asterisk-core-sounds-{code}"
    doc = package_part(folder, package, f"usr/share/doc/{package}")
    path = doc / f"core-sounds-{code}.txt.gz"
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); unpack {package} again") from None
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {key.strip(): clean_text(text) for key, text in pairs}


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
