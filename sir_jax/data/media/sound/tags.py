"""Tags around a sound: those in front are skipped before it is decided what it is."""

import struct

# A tag of this length may stand at the end of an MP3 file.
ID3V1_BYTES = 128


def tag_end(first: bytes) -> int:
    """Return the length of the ID3v2 or APEv2 tag that bytes start with; 0 where there is none.

    The tag may be longer than what is given.
    """
    if first[:3] == b"ID3" and len(first) >= 10 and not any(byte & 0x80 for byte in first[6:10]):
        size = 0
        for byte in first[6:10]:
            size = size << 7 | byte
        footer = 10 if first[5] & 0x10 else 0
        return 10 + size + footer
    if first[:8] == b"APETAGEX" and len(first) >= 32:
        size, flags = struct.unpack_from("<I4xI", first, 12)
        # The size counts a footer, but no header.
        return size + (32 if flags & 0x2000_0000 else 0) or 32
    return 0


def tags_end(data: bytes) -> int:
    """Return where the tags in front of a file end."""
    start = 0
    while start < len(data) and (size := tag_end(data[start : start + 32])):
        start += size
    return min(start, len(data))
