"""Read the form of a search into memory; Starlette's own reader would write it to disk."""

import dataclasses
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sir_jax.data.media.synthesis.said import MOST_LETTERS
from sir_jax.errors import UserError

MAX_PARTS = 4
MAX_HEADERS = 4096  # bytes of the headers of one part
MAX_FIELD = 64  # bytes of a part that is not a file
TEXT = "say"  # the field that holds what is typed


@dataclasses.dataclass
class Part:
    """One part of a form.

    Attributes:
      name: name of the field.
      filename: the browser's name of the file; None if the part is not a file.
      data: the contents.
    """

    name: str
    filename: str | None
    data: bytearray


async def read_form(content_type: str, stream: AsyncIterator[bytes]) -> dict[str, Part]:
    """Read a multipart form; `Guard` bounds its size.

    Args:
      content_type: the content type of the request.
      stream: the body of the request, in pieces.

    Returns:
      The parts by name.

    Raises:
      UserError: the request is not a multipart form, is broken, or has too many or too long parts.
    """
    media_type, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not boundary:
        raise UserError("send a form (multipart/form-data) with one file in it")
    reader = _FormReader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for piece in stream:
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise UserError(f"the form cannot be read: {error}") from None
    if not reader.whole:
        raise UserError("the form is cut off; send it again")
    return reader.parts


class _FormReader:
    """Collect the parts of a form from the calls of the parser."""

    def __init__(self):
        self.parts: dict[str, Part] = {}
        self.whole = False
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value, self._size = bytearray(), bytearray(), 0
        self._part: Part | None = None

    def callbacks(self) -> dict:
        """Return the callbacks under the parser's names for them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(self._header, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self._add(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise UserError(f"the form has more than {MAX_PARTS} parts")
        self._headers, self._size = {}, 0

    def _grow(self, text: bytearray, more: bytes) -> None:
        self._size += len(more)
        if self._size > MAX_HEADERS:
            raise UserError("a part of the form has too long a header")
        text += more

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name, filename = (
            None if text is None else text.decode("utf-8", "replace")
            for text in (options.get(b"name"), options.get(b"filename"))
        )
        if name is None or name in self.parts:
            raise UserError("the form has a part without a name, or a name twice")
        self._part = self.parts[name] = Part(name, filename, bytearray())

    def _add(self, data: bytes) -> None:
        if self._part.filename is None:
            self._check_length(len(self._part.data) + len(data))
        self._part.data += data

    def _check_length(self, size: int) -> None:
        name = self._part.name
        # A letter has at most four bytes.
        if name == TEXT and size > 4 * MOST_LETTERS:
            raise UserError(f"the text is too long; type at most {MOST_LETTERS} letters")
        if name != TEXT and size > MAX_FIELD:
            raise UserError(f"field {name[:40]!r} of the form is too long")

    def _end(self) -> None:
        self.whole = True
