"""Take Ogg files apart: pages, links of a chain, streams; give each stream of sound to a decoder.

libsndfile decodes the first link of a chain, trusts the positions that the last page states, does
not say that a page fails its check sum, and fails where other streams are mixed in. So pages are
checked here, and a file that is not plainly one stream is taken apart.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from sir_jax.data.media.sound.flac import flac_part
from sir_jax.data.media.sound.parts import UNKNOWN, Part, damaged, truncated, unsupported

_CAPTURE = b"OggS"
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_POSITION = -1
# Beyond the end of any stream. Opus counts at 48 kHz, and libsndfile divides by up to 6.
_FAR = UNKNOWN << 4
# The CRC of Ogg is zlib's with the bits of each byte, and of the result, in reverse order.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Where fewer pages are missing behind the header, they were lost.
_JOINED_PAGES = 16
# First packet of a stream -> its codec, and whether it is read here.
_CODECS = (
    (b"\x01vorbis", "Vorbis"),
    (b"OpusHead", "Opus"),
    (b"\x7fFLAC", "FLAC"),
    (b"fLaC", "FLAC"),
)
_UNREAD = ((b"Speex   ", "Speex"),)


class _Page(NamedTuple):
    start: int
    body: int  # where the packets start
    end: int
    flags: int
    position: int  # samples up to the end of the last packet that ends on the page; or -1
    serial: int
    number: int


def ogg_parts(data: bytes, label: str) -> list[Part]:
    """Return the streams of sound of an Ogg file: one for each link of its chain.

    Raises:
      BadMedia: a page is damaged, missing or cut, or no stream is of a codec that is read.
    """
    pages = list(_pages(data, label))
    links = _links(pages, label)
    parts, others = [], []
    for link in links:
        codecs = {serial: _codec(data, of_stream) for serial, of_stream in link.items()}
        found = [serial for serial, codec in codecs.items() if codec]
        if not found:
            others += [_codec(data, of_stream, _UNREAD) for of_stream in link.values()]
            continue
        of_stream = link[found[0]]
        alone = len(links) == len(link) == 1
        parts.append(_part(data, of_stream, codecs[found[0]], alone, label))
    if parts:
        return parts
    speex = any(others)
    raise unsupported(label, "Speex" if speex else "this kind of Ogg stream", extra=speex)


def _pages(data: bytes, label: str) -> Iterator[_Page]:
    """Find the pages and verify their check sums.

    Bytes between pages are legal; a page that is destroyed leaves a gap in the pages' numbers.
    """
    offset, open_streams = 0, set()
    while offset < len(data):
        if data[offset : offset + 4] != _CAPTURE[: len(data) - offset]:
            following = data.find(_CAPTURE, offset)
            if following < 0:
                _check_tail(data, offset, bool(open_streams), label)
                return
            offset = following
        page = _page(data, offset, label)
        if page.flags & _LAST:
            open_streams.discard(page.serial)
        else:
            open_streams.add(page.serial)
        yield page
        offset = page.end


def _page(data: bytes, start: int, label: str) -> _Page:
    lacing = data[start + 26 : start + 27]
    table = data[start + 27 : start + 27 + (lacing or b"\0")[0]]
    body = start + 27 + len(table)
    end = body + sum(table)
    if len(data) < max(end, start + 27):
        raise truncated(label, f"a last Ogg page of {end - start} bytes", str(len(data) - start))
    flags, position, serial, number, stated = struct.unpack_from("<xBqIII", data, start + 4)
    if _checksum(data[start:end]) != stated:
        raise damaged(label, f"its Ogg page at byte {start} fails its check sum")
    return _Page(start, body, end, flags, position, serial, number)


def _checksum(page: bytes) -> int:
    value = 0xFFFFFFFF
    for piece in (page[:22].translate(_REVERSED), bytes(4), page[26:].translate(_REVERSED)):
        value = zlib.crc32(piece, value)
    return int(f"{value ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _check_tail(data: bytes, offset: int, unfinished: bool, label: str) -> None:
    """Refuse bytes after the last page that may have been one: no stream says that it ended."""
    tail = data[offset:]
    if unfinished and tail[:3] != b"TAG" and any(tail):
        raise damaged(label, f"its last {len(tail)} bytes are no Ogg page")


def _links(pages: list[_Page], label: str) -> list[dict[int, list[_Page]]]:
    """Sort pages by link and stream, and check that none is missing."""
    links: list[dict[int, list[_Page]]] = []
    begun = True  # whether the link has pages other than its streams' first ones
    for page in pages:
        if page.flags & _FIRST:
            if begun:
                links.append({})
            begun = False
            if page.serial in links[-1]:
                raise damaged(label, "two of its Ogg streams have one number")
            links[-1][page.serial] = [page]
            continue
        begun = True
        if not links or page.serial not in links[-1]:
            raise damaged(label, "the start of an Ogg stream is missing")
        of_stream = links[-1][page.serial]
        missing = (page.number - of_stream[-1].number - 1) % (1 << 32)
        # Who records a running station gets the header's pages and then those from now on.
        joined = of_stream[-1].position == 0 and missing >= _JOINED_PAGES
        if missing and not joined:
            raise damaged(label, f"Ogg pages are missing before byte {page.start}")
        of_stream.append(page)
    return links


def _codec(data: bytes, of_stream: list[_Page], codecs=_CODECS) -> str:
    body = of_stream[0].body
    return next((name for packet, name in codecs if data.startswith(packet, body)), "")


def _part(data: bytes, of_stream: list[_Page], codec: str, alone: bool, label: str) -> Part:
    """Return a stream as a file of its own.

    All pages are there and whole, so nothing is missing where it decodes to less than they state.
    """
    if codec == "FLAC":
        return flac_part(_native_flac(data, of_stream), label)
    if not _is_counted(of_stream):
        return Part(_recounted(data, of_stream), "OGG", slack=UNKNOWN)
    if codec == "Opus" and not of_stream[-1].flags & _LAST:
        # Else libsndfile refuses a last page that states fewer samples than it holds.
        return Part(_ended(data, of_stream), "OGG", slack=UNKNOWN)
    if alone:
        return Part(data, "OGG", slack=UNKNOWN)
    return Part(b"".join(data[page.start : page.end] for page in of_stream), "OGG", slack=UNKNOWN)


def _is_counted(of_stream: list[_Page]) -> bool:
    """Tell whether the pages' numbers and positions are as an encoder writes them."""
    stated = [page.position for page in of_stream if page.position != _NO_POSITION]
    numbers = [page.number - of_stream[0].number for page in of_stream]
    return (
        stated == sorted(stated)
        and numbers == list(range(len(of_stream)))
        and of_stream[-1].position == stated[-1]
        # Without any sound there are the pages of the header alone.
        and (stated[-1] > 0 or len(of_stream) <= 2)
    )


def _recounted(data: bytes, of_stream: list[_Page]) -> bytes:
    """Return a stream whose last position is beyond its end, so that all of it is read.

    libsndfile reads as many samples as the position of the last page says, and never more. Where
    the stream starts, it learns from the first position.
    """
    out, last, started = [], len(of_stream) - 1, False
    for number, page in enumerate(of_stream):
        position, flags = page.position, page.flags
        if number == last:
            position, flags = _FAR, flags | _LAST
        elif started or (number > 1 and position <= 0):
            position = _NO_POSITION
        started = started or position > 0
        out.append(_changed(data, page, flags, position, number))
    return b"".join(out)


def _ended(data: bytes, of_stream: list[_Page]) -> bytes:
    """Return a stream with the mark of its end."""
    whole, last = [data[page.start : page.end] for page in of_stream], of_stream[-1]
    whole[-1] = _changed(data, last, last.flags | _LAST, last.position, last.number)
    return b"".join(whole)


def _changed(data: bytes, page: _Page, flags: int, position: int, number: int) -> bytes:
    out = bytearray(data[page.start : page.end])
    struct.pack_into("<BqII", out, 5, flags, position, page.serial, number)
    struct.pack_into("<I", out, 22, _checksum(bytes(out)))
    return bytes(out)


def _packets(data: bytes, of_stream: list[_Page]) -> Iterator[bytes]:
    """Yield the packets of a stream."""
    waiting: list[bytes] = []
    for page in of_stream:
        if not page.flags & _CONTINUED:
            waiting = []
        offset = page.body
        for size in data[page.start + 27 : page.body]:
            waiting.append(data[offset : offset + size])
            offset += size
            if size < 255:
                yield b"".join(waiting)
                waiting = []


def _native_flac(data: bytes, of_stream: list[_Page]) -> bytes:
    """Unwrap FLAC: libsndfile does not open every file that ffmpeg writes."""
    packets = list(_packets(data, of_stream))
    if packets[:1] and packets[0][:5] == b"\x7fFLAC":
        packets[0] = packets[0][9:]
    return b"".join(packets)
