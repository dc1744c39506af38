"""Take the number of samples out of a FLAC file's header; find a file that was joined to it."""

import re

from sir_jax.data.media.sound.parts import Part, damaged

_MARKER = b"fLaC"
# The marker and the head of the first block, which holds 34 bytes.
_START = re.compile(_MARKER + rb"[\x00\x80]\x00\x00\x22")
# From byte 18 on 20 bits of rate, 8 of layout and 36 of the number of samples.
_WORD = slice(18, 26)
_COUNT = (1 << 36) - 1


def next_flac(data: bytes) -> bytes:
    """Return the FLAC stream that follows the first one of a file; empty if none does."""
    found = _START.search(data, len(_MARKER))
    return data[found.start() :] if found else b""


def flac_part(data: bytes, label: str) -> Part:
    """Return a FLAC file without its number of samples, so that libsndfile reads to its end.

    The number is 0 where the encoder wrote into a pipe.

    Raises:
      BadMedia: the file has no valid header.
    """
    if not _START.match(data) or len(data) < 42:
        raise damaged(label, "its FLAC header is invalid")
    word = int.from_bytes(data[_WORD], "big")
    unknown = (word & ~_COUNT).to_bytes(8, "big")
    return Part(data, "FLAC", (word & _COUNT) or None, patch=(_WORD.start, unknown))
