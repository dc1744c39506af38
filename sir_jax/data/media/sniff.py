"""Tell by its first bytes what a file holds: the suffix of a name proves nothing.

A kind is given for every known format, whether or not it can be read here. `load_audio` and
`load_image` refuse a format that they cannot read with the fault 'not supported' and a remedy.
"""

import os
import re
import struct
from typing import BinaryIO, NamedTuple

from sir_jax.data.media.sound.mpeg import find_frames, is_frame
from sir_jax.data.media.sound.tags import tag_end, tags_end

# Bytes of a file's start that tell its format.
HEAD_BYTES = 8192


class Content(NamedTuple):
    """What a file holds.

    Attributes:
      kind: 'image', 'speech' (any sound), or None for anything else, such as a video.
      format: lower-case name of the format, such as 'wav', 'm4a', 'jpeg', 'pdf'; '' if unknown.
    """

    kind: str | None
    format: str


UNKNOWN = Content(None, "")

# Bytes at an offset -> format.
_SOUNDS = (
    (0, b"fLaC", "flac"),
    (0, b"#!AMR", "amr"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma"),
    (0, b"wvpk", "wavpack"),
    (0, b"MAC ", "ape"),
    (0, b"TTA1", "tta"),
    (0, b"NIST_1A", "sphere"),
    (0, b"Creative Voice File", "voc"),
    (0, b"#!SILK", "silk"),
    (1, b"#!SILK", "silk"),
    (0, b"\x0b\x77", "ac3"),
)
_PICTURES = (
    (0, b"\xff\xd8\xff", "jpeg"),  # whatever follows: JFIF, Exif or neither
    (0, b"II*\0\x10\0\0\0CR\2\0", "raw"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"\xff\x0a", "jxl"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (0, b"\xff\x4f\xff\x51", "jpeg2000"),
    (0, b"II\xbc\x01", "jpeg xr"),
    (0, b"8BPS\0", "psd"),
    (0, b"gimp xcf ", "xcf"),
    (0, b"\0\0\1\0", "ico"),
    (0, b"icns", "icns"),
    (0, b"DDS |", "dds"),
    (0, b"qoif", "qoi"),
    (0, b"\x76\x2f\x31\x01", "exr"),
    (0, b"#?RADIANCE\n", "hdr"),
    (0, b"%!PS-Adobe", "eps"),
    (0, b"\xc5\xd0\xd3\xc6", "eps"),
    (0, b"AT&TFORM", "djvu"),
    (0, b"\xd7\xcd\xc6\x9a", "wmf"),
    (0, b"/* XPM */", "xpm"),
    (0, b"FUJIFILMCCD-RAW", "raw"),
    (0, b"IIU\0", "raw"),
    (0, b"IIRO", "raw"),
    (0, b"IIRS", "raw"),
)
_OTHERS = (
    (0, b"%PDF", "pdf"),
    (0, b"PK\3\4", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"MThd", "midi"),
    (0, b"\0\0\1\xba", "video"),
    (0, b"FLV\1", "video"),
)
_FORMS = {
    b"RIFF": {b"WAVE": ("speech", "wav"), b"WEBP": ("image", "webp"), b"AVI ": (None, "video")},
    b"RIFX": {b"WAVE": ("speech", "wav")},
    b"RF64": {b"WAVE": ("speech", "wav")},
    b"BW64": {b"WAVE": ("speech", "wav")},
    b"FORM": {b"AIFF": ("speech", "aiff"), b"AIFC": ("speech", "aiff")},
}
# Major brands of the ISO container; those that are not here are mp4 files.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis"), ("image", "heic")),
    **dict.fromkeys((b"mif1", b"msf1", b"heif"), ("image", "heif")),
    **dict.fromkeys((b"avif", b"avis"), ("image", "avif")),
    b"crx ": ("image", "raw"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"F4A "), ("speech", "m4a")),
}
# The first packet of an Ogg stream. A Skeleton precedes the streams that it describes.
_OGG_PACKETS = (
    (b"OpusHead", "opus"),
    (b"\x7fFLAC", "ogg flac"),
    (b"\x01vorbis", "ogg"),
    (b"Speex   ", "speex"),
    (b"fishead\0", "ogg"),
    (b"\x80theora", "video"),
)
# The most bytes of an mp4 file's table that are searched for its tracks.
_TABLE = 1 << 20
_VIDEO_CODECS = (b"V_VP8", b"V_VP9", b"V_AV1", b"V_MPEG")


def content_of(first: bytes) -> Content:
    """Tell what a file holds by its first bytes.

    Args:
      first: the first `HEAD_BYTES` of the file, or all of a shorter one.

    Example:
      >>> content_of(b"fLaC" + bytes(38))
      Content(kind='speech', format='flac')
      >>> content_of(b"dear diary")
      Content(kind=None, format='')
    """
    start = tags_end(first)
    if start and start == len(first):
        # Nearly always an mp3 file has a tag longer than what was given; `sniff` looks behind it.
        return Content("speech", "mp3")
    rest = first[start:]
    found = _content_of_form(rest)
    if found is not None:
        return found
    for kind, magics in (("speech", _SOUNDS), ("image", _PICTURES), (None, _OTHERS)):
        for offset, magic, name in magics:
            if rest.startswith(magic, offset):
                return Content(kind, name)
    if _is_bmp(rest):
        return Content("image", "bmp")
    if name := _mpeg_format(rest):
        return Content("speech", name)
    if re.match(rb"P[1-6]\s+(#.*\n\s*)*\d+\s+\d+\s|P7\nWIDTH ", rest):
        return Content("image", "pnm")
    if b"<svg" in rest[:1024].lower():
        return Content("image", "svg")
    return UNKNOWN


def kind_of_content(first: bytes) -> str | None:
    """Return 'image', 'speech' or None, the kind of `content_of`."""
    return content_of(first).kind


def sniff(path: str | os.PathLike) -> Content:
    """Tell what a file holds; tags in front of it are skipped, however long they are.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return sniff_file(file)


def sniff_file(file: BinaryIO) -> Content:
    """Tell what an open file holds from its start on; its position changes."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(HEAD_BYTES)
        end = tag_end(head)
        if not end:
            break
        start += end
    if start and not head:
        return Content("speech", "mp3")
    found = content_of(head)
    return Content(None, "video") if found.format == "mp4" and _shows(file, start) else found


def _content_of_form(first: bytes) -> Content | None:
    """Tell RIFF, IFF, ISO, Matroska and Ogg files apart; None for any other file."""
    form = _FORMS.get(first[:4])
    if form is not None:
        return Content(*form.get(first[8:12], UNKNOWN))
    if first[4:8] == b"ftyp":
        return _content_of_iso(first)
    if first[:4] == b"\x1a\x45\xdf\xa3":
        if any(codec in first for codec in _VIDEO_CODECS):
            return Content(None, "video")
        return Content("speech", "webm" if b"webm" in first[:64] else "mka")
    if first[:4] == b"OggS":
        name = _ogg_format(first)
        return Content(None if name == "video" else "speech", name)
    return None


def _content_of_iso(first: bytes) -> Content:
    kind, name = _BRANDS.get(first[8:12], ("speech", "mp4"))
    # A general brand of pictures: the brands that it is compatible with say how they are coded.
    if name == "heif":
        others = first[16 : int.from_bytes(first[:4], "big")]
        brands = [others[at : at + 4] for at in range(0, len(others), 4)]
        known = [_BRANDS[brand][1] for brand in brands if brand in _BRANDS]
        name = next((brand for brand in known if brand != "heif"), name)
    return Content(kind, name)


def _shows(file: BinaryIO, start: int) -> bool:
    """Tell whether an mp4 file has a track of pictures; its table of tracks may stand last."""
    for _ in range(64):
        file.seek(start)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if head[4:8] == b"moov":
            return bool(re.search(rb"hdlr.{8}vide", file.read(min(size, _TABLE)), re.DOTALL))
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8:
            break
        start += size
    return False


def _ogg_format(first: bytes) -> str:
    body = first[27 + (first[26] if len(first) > 26 else 0) :]
    return next((name for packet, name in _OGG_PACKETS if body.startswith(packet)), "ogg")


def _is_bmp(first: bytes) -> bool:
    # 'BM' alone starts many a text: the size of the second header must be a known one, too.
    return first[:2] == b"BM" and first[14:18] in {
        struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124)
    }


def _mpeg_format(first: bytes) -> str:
    """Return 'mp3', 'aac' or '' for the start of a file."""
    if len(first) >= 7 and first[0] == 0xFF and first[1] & 0xF6 == 0xF0:
        return "aac" if first[2] >> 2 & 15 < 13 else ""
    # 0xFFFE is the byte order mark of a UTF-16 text, too. Other bytes may precede the first frame
    # of a file that was cut out of a stream.
    if (is_frame(first, 0) and first[1] != 0xFE) or find_frames(first, 0, len(first)) >= 0:
        return "mp3"
    return ""
