"""Take FLAC files apart: the header's number of samples, and streams that follow each other."""

import re

from sir_jax.data.media.sound.parts import Part, damaged

_MARKER = b"fLaC"
# The marker and the head of the first block, which holds 34 bytes.
_START = re.compile(_MARKER + rb"[\x00\x80]\x00\x00\x22")
# From byte 18 on 20 bits of rate, 8 of layout and 36 of the number of samples.
_WORD = slice(18, 26)
_COUNT = (1 << 36) - 1


def flac_parts(data: bytes, label: str) -> list[Part]:
    """Return the streams of a FLAC file; most have one.

    Raises:
      BadMedia: the file has no valid header.
    """
    if not _START.match(data) or len(data) < 42:
        raise damaged(label, "its FLAC header is invalid")
    if data.find(_MARKER, 4) < 0:
        return [flac_part(data)]
    starts = [found.start() for found in _START.finditer(data)]
    ends = [*starts[1:], len(data)]
    return [flac_part(data[start:end]) for start, end in zip(starts, ends, strict=True)]


def flac_part(data: bytes) -> Part:
    """Return one FLAC stream without its number of samples, so that libsndfile reads to its end.

    The number is 0 where the encoder wrote into a pipe.
    """
    word = int.from_bytes(data[_WORD], "big")
    unknown = (word & ~_COUNT).to_bytes(8, "big")
    whole = b"".join((data[: _WORD.start], unknown, memoryview(data)[_WORD.stop :]))
    return Part(whole, "FLAC", (word & _COUNT) or None)
