"""Read a text file in whatever encoding it was written."""

import codecs
from pathlib import Path

from sir_jax.data.media.sources import read_source
from sir_jax.errors import UserError

# Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What Windows writes in western Europe: Latin-1 with more letters.
FALLBACK = "cp1252"
_HEAD = 4096


def read_text(path: Path, encoding: str, notes: list[str]) -> str:
    """Return a file's text.

    Without a byte order mark it is UTF-8, or UTF-16 where every second byte is 0; lines that are no
    UTF-8 are read as cp1252, and a note says so.

    Args:
      path: of the file.
      encoding: Python's name of it; '' to find out.
      notes: gets a line where encodings are mixed or guessed.

    Raises:
      UserError: it cannot be read, or is not in the encoding.
    """
    _, data = read_source(path, None, "captions")
    encoding = encoding or next((name for mark, name in _MARKS if data.startswith(mark)), "")
    encoding = encoding or _utf16(data[:_HEAD])
    if encoding:
        return _decode(path, data, encoding)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _by_line(path, data, notes)


def _decode(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise UserError(
            f"encoding {encoding!r} is unknown; give one such as utf-8, utf-16, cp1252 or cp1251"
        ) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: is no {encoding} ({error.reason}); save the file as UTF-8, or give "
            "another encoding"
        ) from None


def _utf16(head: bytes) -> str:
    """Return the kind of UTF-16 by the zero bytes of Latin letters; '' if it is none."""
    pairs = len(head) // 2
    even, odd = (head[start : 2 * pairs : 2].count(0) for start in (0, 1))
    if 2 * odd > pairs and not even:
        return "utf-16-le"
    return "utf-16-be" if 2 * even > pairs and not odd else ""


def _by_line(path: Path, data: bytes, notes: list[str]) -> str:
    lines, first, count = [], "", 0
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            count += 1
            # Five bytes mean nothing in cp1252: Latin-1 has them as control codes.
            text = "".join(_letter(byte) for byte in line)
            first = first or f"{number} {' '.join(text.split())[:60]!r}"
            lines.append(text)
    notes.append(
        f"{path.name}: {count:,} of {len(lines):,} lines are no UTF-8, read as {FALLBACK}, the "
        f"first is line {first}; if that is wrong, give the encoding"
    )
    return "\n".join(lines)


def _letter(byte: int) -> str:
    try:
        return bytes([byte]).decode(FALLBACK)
    except UnicodeDecodeError:
        return chr(byte)
