"""Captions in a table of text: CSV, TSV, and what is separated by ';' or '|'."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sir_jax.data.builders.spoken_captions.sources.rows import (
    PICTURE,
    TEXT,
    Columns,
    Found,
    Reader,
)
from sir_jax.data.builders.spoken_captions.sources.text import read_text
from sir_jax.errors import UserError

_DELIMITERS = (",", "\t", ";", "|")
# A quoted caption with more lines has lost its end.
_MOST_LINES = 50
_FIELD = 1 << 20
# A list without a first line of names: 'dog.jpg', or 'dog.jpg#3' as Flickr's lists have it.
_PICTURE_NAME = re.compile(r".+\.(jpe?g|png|webp|gif|bmp|tiff?|heic|avif|jxl)(#\d+)?", re.I)


def read_table(path: Path, chosen: Sequence[str], encoding: str) -> Found:
    """Read captions from a table.

    Args:
      path: of the file. Its first line names the columns; without names there are two columns,
        picture and caption.
      chosen: languages that are asked for; none for all.
      encoding: see `read_text`.

    Raises:
      UserError: there is no column of pictures or of captions, or a quote is not closed.
    """
    found = Found()
    # Not splitlines, which also splits at letters that a caption may hold.
    lines = io.StringIO(read_text(path, encoding, found.notes), newline="").readlines()
    number = next((n for n, line in enumerate(lines) if line.strip()), None)
    if number is None:
        raise UserError(f"{path}: is empty; its first line names the columns")
    delimiter, names, plain = _form(path, lines[number], chosen)
    reader = Reader(found, chosen, path.name)
    for line, fields in _fields(path, lines, number, delimiter, quoted=not plain):
        if line == number + 1 and not plain:
            continue
        where = f"{path.name}:{line}"
        if isinstance(fields, str):
            found.wrong(where, fields)
        elif plain:
            _add_plain(reader, found, where, fields)
        elif len(fields) == len(names):
            reader.add(where, dict(zip(names, fields, strict=True)))
        elif any(field.strip() for field in fields):
            found.wrong(where, f"{len(fields)} fields, the first line has {len(names)}")
    reader.close()
    return found


def _add_plain(reader: Reader, found: Found, where: str, fields: list[str]) -> None:
    if len(fields) >= 2:
        # What follows the first delimiter is the caption, with any further ones.
        reader.add(where, {"image": fields[0], "caption": fields[1]})
    elif fields and fields[0].strip():
        found.wrong(where, "no caption after the picture's name")


def _form(path: Path, first: str, chosen: Sequence[str]) -> tuple[str, list[str], bool]:
    """Return the delimiter, the columns' names, and whether the first line names none."""
    first = first.strip("\r\n")
    best: tuple[int, str, list[str]] = (0, "", [])
    for delimiter in _DELIMITERS:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        columns = Columns.of(names, chosen)
        known = bool(columns.picture) + bool(columns.text or columns.texts)
        if known == 2 and len(names) > best[0]:
            best = (len(names), delimiter, names)
    count, delimiter, names = best
    if count:
        if len(set(names)) < count:
            raise UserError(f"{path.name}:1: a column is named twice; rename one of them")
        return delimiter, names, False
    for delimiter in ("\t", ",", ";", "|"):
        name, found, _ = first.partition(delimiter)
        if found and _PICTURE_NAME.fullmatch(name.strip(' "')):
            return delimiter, [], True
    raise UserError(
        f"{path.name}:1: {first[:60]!r} names no column of pictures or none of captions; call "
        f"them {PICTURE[0]!r} and {TEXT[0]!r} (or by language, 'fr'), separated by commas or tabs"
    )


def _fields(
    path: Path, lines: list[str], start: int, delimiter: str, quoted: bool
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of each row's first line, and its fields or what is wrong with it."""
    if not quoted and delimiter != ",":
        for number, line in enumerate(lines[start:], start + 1):
            yield number, line.strip("\r\n").split(delimiter, 1)
        return
    csv.field_size_limit(_FIELD)
    reader = csv.reader(iter(lines[start:]), delimiter=delimiter)
    at = start
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = str(error)
        first, at = at + 1, start + reader.line_num
        cut = at == len(lines) > first and "".join(lines[first - 1 :]).count('"') % 2
        if at - first >= _MOST_LINES or cut:
            raise UserError(
                f"{path.name}:{first}: a quote opens here and is not closed for {at - first + 1} "
                'lines, whose captions would be lost; close it, or write "" for a quote in a text'
            )
        yield first, fields
