"""Captions in text files beside the pictures: `dog.txt` or `dog.fr.txt` of `dog.jpg`."""

import posixpath
import re

from sir_jax.data.builders.spoken_captions.pictures import SUFFIXES, Pictures
from sir_jax.data.builders.spoken_captions.sources.rows import Found, Row, language_code
from sir_jax.data.builders.spoken_captions.sources.text import read_text
from sir_jax.data.media.synthesis import speaks
from sir_jax.errors import UserError

_TEXT = ".txt"
_LANGUAGE = re.compile(r"(?P<stem>.+)\.(?P<code>[A-Za-z]{2,3}(?:[-_][A-Za-z]{2,4})?)")


def read_beside(pictures: Pictures, encoding: str) -> Found:
    """Read the text beside each picture; a line is a caption.

    Args:
      pictures: of the folder.
      encoding: see `read_text`.
    """
    found = Found()
    texts: dict[str, list[tuple[str, str]]] = {}
    for name in pictures.files:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() == _TEXT:
            texts.setdefault(stem, []).append(("", name))
            match = _LANGUAGE.fullmatch(stem)
            code = language_code(match["code"]) if match else ""
            # 'dog.png.txt' and 'dog.new.txt' name no language.
            known = code and (len(code) == 2 or speaks("espeak", code))
            if known and not stem.lower().endswith(SUFFIXES):
                texts.setdefault(match["stem"], []).append((code, name))
    for name in pictures.pictures:
        stem = posixpath.splitext(name)[0]
        for code, path in [*texts.get(stem, ()), *texts.get(name, ())]:
            _add(found, pictures, encoding, name, path, code)
    return found


def _add(
    found: Found, pictures: Pictures, encoding: str, picture: str, path: str, code: str
) -> None:
    try:
        text = read_text(pictures.folder / path, encoding, found.notes)
    except UserError as error:
        found.wrong(path, " ".join(str(error).split()))
        return
    pictures.used.add(path)
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found.rows.append(Row(f"{path}:{number}", picture, line, code))
