"""Sound files as other programs write them, made of those that soundfile writes."""

import io
import struct
import zlib

import numpy as np
import soundfile

RATE = 16_000
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def hum(samples: int = 40_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return a hum with noise, float32 [samples, channels] within (-1, 1)."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(samples)[:, None] * 0.05) * 0.3
    return (wave + 0.05 * rng.standard_normal((samples, channels))).astype(np.float32)


def encode(wave: np.ndarray, container: str, subtype=None, rate: int = RATE, **options) -> bytes:
    """Return a sound file; options are those of `soundfile.write`."""
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format=container, subtype=subtype, **options)
    return out.getvalue()


def pages_of(ogg: bytes) -> list[bytes]:
    """Return the pages of an Ogg file."""
    pages, at = [], 0
    while at < len(ogg):
        lacing = ogg[at + 27 : at + 27 + ogg[at + 26]]
        end = at + 27 + len(lacing) + sum(lacing)
        pages.append(ogg[at:end])
        at = end
    return pages


def page(
    packets: list[bytes], flags: int = 0, position: int = 0, serial: int = 7, number: int = 0
) -> bytes:
    """Return an Ogg page of whole packets."""
    table = b"".join(b"\xff" * (len(p) // 255) + bytes([len(p) % 255]) for p in packets)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, serial, number, 0, len(table))
    return sealed(head + table + b"".join(packets))


def sealed(raw: bytes, **changes: int) -> bytes:
    """Return a page with fields changed (flags, position, number) and the right check sum."""
    out = bytearray(raw)
    for name, value in changes.items():
        place, form = {"flags": (5, "B"), "position": (6, "<q"), "number": (18, "<I")}[name]
        struct.pack_into(form, out, place, value)
    out[22:26] = bytes(4)
    # Ogg's CRC has the bits of zlib's in reverse order.
    value = zlib.crc32(bytes(out).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    struct.pack_into("<I", out, 22, int(f"{value:032b}"[::-1], 2))
    return bytes(out)


def flac_in_ogg(flac: bytes, samples: int) -> bytes:
    """Wrap a FLAC file of fixed blocks into Ogg pages, a frame each."""
    at, blocks = 4, []
    while not blocks or not blocks[-1][0] & 0x80:
        size = int.from_bytes(flac[at + 1 : at + 4], "big")
        blocks.append(flac[at : at + 4 + size])
        at += 4 + size
    first = b"\x7fFLAC\x01\0" + struct.pack(">H", len(blocks) - 1) + b"fLaC" + blocks[0]
    pages = [page([first], flags=2), page(blocks[1:], number=1)]
    step = int.from_bytes(flac[8:10], "big")
    # A frame starts with this, its number and a check sum; in these small files nothing else does.
    starts = [at]
    sync = flac[at : at + 4]
    while (found := flac.find(sync, starts[-1] + 4)) >= 0:
        starts.append(found)
    for n, start in enumerate(starts):
        end = starts[n + 1] if n + 1 < len(starts) else len(flac)
        last = 4 if n + 1 == len(starts) else 0
        position = min((n + 1) * step, samples)
        pages.append(page([flac[start:end]], flags=last, position=position, number=n + 2))
    return b"".join(pages)


def without_info(mp3: bytes) -> bytes:
    """Return an MP3 file without its first frame, which holds its length and no sound."""
    return mp3[mp3.index(mp3[:2], 2) :]


def id3(mp3: bytes, size: int = 300) -> bytes:
    """Return a file behind an ID3v2 tag of so many bytes."""
    places = [size >> shift & 0x7F for shift in (21, 14, 7, 0)]
    return b"ID3\3\0\0" + bytes(places) + bytes(size) + mp3
