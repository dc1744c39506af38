"""Check WAV files, and write a plain header where theirs cannot be taken at its word."""

import struct
from typing import NamedTuple

from sir_jax.data.media.sound.parts import CONVERT, Part, damaged, truncated
from sir_jax.errors import BadMedia

# PCM, float, A-law, mu-law. Files with ADPCM must not even be opened: the decoders of libsndfile
# 1.2.2 overflow on crafted files (CVE-2026-37555).
CODECS = (1, 3, 6, 7)
_EXTENSIBLE = 0xFFFE
# No file this large is read, so a size from here up is no size. ffmpeg writes 0xFFFFFFFF into a
# pipe, sox 0x7FFFF000, others 0x7FFFFFFF or two thousand million.
_BEYOND = 1 << 30
# From here up, a round number of bytes is no size either: it is one in 100,000 by chance.
_ROUND_FROM, _ROUND = 100_000_000, 100_000


class _Header(NamedTuple):
    """The header up to the samples, which start at `start`; `size` is what it says of them."""

    order: str  # byte order, as for struct
    form: bytes  # the chunk "fmt " without its head
    start: int
    size: int
    whole: int  # what it says of the file
    plain: bool  # whether every chunk begins where the one before it ends


def wav_part(data: bytes, label: str) -> Part:
    """Check the codec of a WAV file, and that it holds as many bytes as its header states.

    The size of the samples is a placeholder, and they go on to the end of the file, if it is 0 and
    no other chunk follows, or if it lies beyond the end and
    - is 1 GiB or more, or a round number from 100 MB up; or
    - the header gives the whole file a size that does not hold them, or one of 1 GiB or more.
    Any other size beyond the end means that the file was cut.

    Raises:
      BadMedia: the file is truncated or damaged, or its codec is not read.
    """
    head = _read_header(data, label)
    codec = struct.unpack_from(f"{head.order}H", head.form)[0]
    if codec == _EXTENSIBLE and len(head.form) >= 26:
        codec = struct.unpack_from(f"{head.order}24xH", head.form)[0]
    if codec not in CODECS:
        raise BadMedia(
            f"{label}: wav codec {codec} is not supported (PCM, float, A-law and mu-law are); "
            f"{CONVERT}",
            "not supported",
        )
    left = len(data) - head.start
    if head.size > left or (not head.size and left):
        if not _is_open(data, head, left):
            if head.size:
                raise truncated(label, f"{head.size} bytes of sound", str(left))
            return Part(data, "WAV")
        return Part(_rewritten(data, head, left, label), "WAV")
    return Part(data if head.plain else _rewritten(data, head, head.size, label), "WAV")


def _read_header(data: bytes, label: str) -> _Header:
    """Find the chunks "fmt " and "data"."""
    order = ">" if data[:4] == b"RIFX" else "<"
    form, long_size, offset, plain = b"", None, 12, True
    whole = struct.unpack_from(f"{order}I", data, 4)[0] + 8
    while offset + 8 <= len(data):
        if offset % 2 == 0 and not _is_name(data, offset) and _is_name(data, offset - 1):
            # The chunk before has an odd size, and its writer forgot the byte that fills it up.
            offset, plain = offset - 1, False
        chunk, size = struct.unpack_from(f"{order}4sI", data, offset)
        body = offset + 8
        if chunk == b"data":
            if len(form) < 16:
                raise damaged(label, "no format before its samples")
            # In an RF64 file the true size stands in the chunk "ds64".
            size = size if long_size is None or size != 0xFFFFFFFF else long_size
            return _Header(order, form, body, size, whole, plain)
        if size > len(data) - body:
            break
        if chunk == b"ds64" and size >= 16:
            long_whole, long_size = struct.unpack_from(f"{order}QQ", data, body)
            whole = long_whole + 8 if whole == 0xFFFFFFFF + 8 else whole
        if chunk == b"fmt ":
            form = bytes(data[body : body + min(size, 40)])
        offset = body + size + size % 2
    raise truncated(label, "a data chunk", "none")


def _is_name(data: bytes, offset: int) -> bool:
    name = data[offset : offset + 4]
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _is_open(data: bytes, head: _Header, left: int) -> bool:
    """Tell whether the size of the samples is a placeholder, see `wav_part`."""
    if not head.size:
        return not _chunks_follow(data, head)
    if head.size >= _BEYOND or (head.size >= _ROUND_FROM and head.size % _ROUND == 0):
        return True
    return not head.start + head.size <= head.whole < _BEYOND


def _chunks_follow(data: bytes, head: _Header) -> bool:
    """Tell whether other chunks fill the file exactly from the samples' start on."""
    offset = head.start
    while offset + 8 <= len(data) and _is_name(data, offset):
        offset += 8 + struct.unpack_from(f"{head.order}I", data, offset + 4)[0]
        offset += offset % 2
    return offset in (len(data), len(data) + 1)


def _rewritten(data: bytes, head: _Header, size: int, label: str) -> bytes:
    """Return a plain WAV file of the first `size` bytes of samples, whole frames of them only."""
    align = struct.unpack_from(f"{head.order}H", head.form, 12)[0]
    if not align:
        raise damaged(label, "frames of 0 bytes")
    size -= size % align
    pack, form = head.order, head.form
    whole = 4 + 8 + len(form) + len(form) % 2 + 8 + size + size % 2
    return b"".join(
        (
            b"RIFX" if pack == ">" else b"RIFF",
            struct.pack(f"{pack}I4s4sI", whole, b"WAVE", b"fmt ", len(form)),
            form + bytes(len(form) % 2),
            struct.pack(f"{pack}4sI", b"data", size),
            memoryview(data)[head.start : head.start + size],
            bytes(size % 2),
        )
    )
