"""Open picture files: which formats, by which parser, at which scale."""

import importlib
import importlib.util
import io
import re
import struct
import zlib

from PIL import Image

from sir_jax.data.media.sniff import HEAD_BYTES, content_of
from sir_jax.errors import BadMedia

# Pillow reads more formats, but those parsers have had many vulnerabilities.
FORMATS = {
    "jpeg": "PIL.JpegImagePlugin:JpegImageFile",
    "png": "PIL.PngImagePlugin:PngImageFile",
    "webp": "PIL.WebPImagePlugin:WebPImageFile",
    "gif": "PIL.GifImagePlugin:GifImageFile",
    "bmp": "PIL.BmpImagePlugin:BmpImageFile",
}
# Only who installs `sir_jax[media]` asks for these parsers, too.
MEDIA_FORMATS = {
    "heic": "pillow_heif:HeifImageFile",
    "heif": "pillow_heif:HeifImageFile",
    "jxl": "pillow_jxl.JpegXLImagePlugin:JXLImageFile",
    "avif": "PIL.AvifImagePlugin:AvifImageFile",
    "tiff": "PIL.TiffImagePlugin:TiffImageFile",
}
MEDIA_PACKAGES = ("pillow_heif", "pillow_jxl")
_NAMES = {"webp": "WebP", "jpeg2000": "JPEG 2000", "jxl": "JPEG XL", "raw": "a camera's raw file"}

# How a decoder says that a file is of a kind that it does not know.
_UNKNOWN_KIND = re.compile(
    "unsupported|not supported|unknown|cannot handle|not available|not installed", re.IGNORECASE
)
# The markers that start a JPEG picture, and those whose coding libjpeg reads: baseline, extended
# and progressive, by Huffman or arithmetic.
_JPEG_STARTS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_CODINGS = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
# A progressive JPEG is held whole while it is decoded, at any scale.
_PROGRESSIVE_SCALE = 2

# Chunks that change pixels or their orientation, though a PNG reader may leave them out.
_PNG_KEPT = (b"tRNS", b"eXIf")
_PNG_ORIENTATION = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
# For more text Pillow refuses the whole picture.
_PNG_TEXT_BYTES = 1 << 20

# Bit 0 of this tag: the file starts with a small copy of the picture, as cameras' raw files do.
_TIFF_SUBFILE_TYPE = 254


def open_picture(data: bytes, label: str, max_pixels: int) -> Image.Image:
    """Open a picture without decoding it.

    A JPEG file with more pixels than allowed is opened at a half, a quarter or an eighth of its
    sides: its decoder never makes the others.

    Args:
      data: the whole file.
      label: the picture's name in messages.
      max_pixels: most pixels; a picture that cannot be opened at a smaller scale is opened whole,
        and its size is left to the caller to check.

    Returns:
      The opened picture, of which `load` decodes the first frame.

    Raises:
      BadMedia: the file holds no picture, or one that is not supported.
      Exception: the file is damaged; parsers raise any kind.
    """
    content = content_of(data[:HEAD_BYTES])
    # Asked last, because to look for packages takes as long as to decode a small picture.
    plain = content.format in FORMATS or not has_media_extra()
    known = FORMATS if plain else MEDIA_FORMATS
    if content.format not in known:
        raise _refusal(label, *content)
    if content.format == "png":
        data = without_side_data(data)
    if content.format == "jxl":
        _check_size(label, *_jxl_size(data), max_pixels)
    # Not `Image.open`: it warns of large pictures, which have a limit of their own here.
    image = _load_class(known[content.format])(io.BytesIO(data), "")
    if content.format == "jpeg":
        _shrink(image, max_pixels)
    if content.format == "jxl" and not image.jpeg:
        # The decoder has turned it upright already, but for a JPEG inside.
        image.info.pop("exif", None)
    if content.format == "tiff" and image.tag_v2.get(_TIFF_SUBFILE_TYPE, 0) & 1:
        raise not_supported(label, _title("raw"))
    return image


def has_media_extra() -> bool:
    """Tell whether the packages of `sir_jax[media]` that read pictures are installed."""
    return all(importlib.util.find_spec(name) for name in MEDIA_PACKAGES)


def not_supported(label: str, what: str, extra: bool = False) -> BadMedia:
    """Return the error for a picture that is whole, but cannot be read here.

    Args:
      label: the picture's name in messages.
      what: the kind of picture.
      extra: whether installing the extra would help.
    """
    remedy = "convert it to JPEG or PNG" + (", or pip install 'sir_jax[media]'" if extra else "")
    return BadMedia(f"{label}: {what} is not supported; {remedy}", "not supported")


def failure(error: Exception, data: bytes, label: str) -> BadMedia:
    """Return the error for a picture whose parser or decoder failed: not supported, or damaged.

    Args:
      error: what it raised.
      data: the whole file.
      label: the picture's name in messages.
    """
    name = content_of(data[:HEAD_BYTES]).format
    coding = _jpeg_coding(data) if name == "jpeg" else None
    if coding is not None and coding not in _JPEG_CODINGS:
        return not_supported(label, "lossless or hierarchical JPEG")
    if data[12:16] == b"CgBI":
        return not_supported(label, "Apple's form of PNG")
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    if _UNKNOWN_KIND.search(reason):
        return not_supported(label, f"{_title(name)} of this kind ({reason})")
    fault = "truncated" if is_cut(data) else "undecodable"
    return BadMedia(f"{label}: damaged picture ({reason}); replace or remove it", fault)


def too_large(label: str, width: int, height: int, max_pixels: int) -> BadMedia:
    """Return the error for a picture with more than `max_pixels`."""
    return BadMedia(
        f"{label}: {width} x {height} is more than {max_pixels} pixels; shrink it first",
        "too large",
    )


def without_side_data(data: bytes) -> bytes:
    """Return a PNG file without the chunks that no pixel depends on.

    Profiles, texts, further frames and private data are of no use here, and Pillow refuses a
    picture for the length or the checksum of any of them. What the orientation may stand in stays.

    Args:
      data: the whole file; from the first chunk that is cut short on it is returned as it is.
    """
    parts, at, dropped = [data[:8]], 8, False
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            break
        if not kind[0] & 0x20 or _is_kept(kind, data[at + 8 : end - 4], data[end - 4 : end]):
            parts.append(data[at:end])
        else:
            dropped = True
        at = end
    return b"".join([*parts, data[at:]]) if dropped else data


def is_cut(data: bytes) -> bool:
    """Tell whether a picture file lacks the end that its format prescribes."""
    # A few bytes after the end are common and harmless.
    tail = data[-64:]
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" not in tail
    if data[:4] == b"\x89PNG":
        return b"IEND" not in tail
    if data[:3] == b"GIF":
        return b"\x3b" not in tail
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return data[:2] == b"BM" and int.from_bytes(data[2:6], "little") > len(data)


def _refusal(label: str, kind: str | None, name: str) -> BadMedia:
    """Return the error for content that no parser is for."""
    if kind == "image":
        return not_supported(label, _title(name), extra=name in MEDIA_FORMATS)
    held = f" but {'sound' if kind == 'speech' else 'other content'} ({name})" if name else ""
    return BadMedia(
        f"{label}: not a picture{held} (JPEG, PNG, WebP, GIF or BMP); replace or remove it"
    )


def _title(name: str) -> str:
    """Return the usual spelling of a format's name."""
    return _NAMES.get(name, name.upper())


def _load_class(name: str):
    """Return the class that opens a format; its module is imported when the first file comes."""
    module, _, cls = name.partition(":")
    return getattr(importlib.import_module(module), cls)


def _check_size(label: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise too_large(label, width, height, max_pixels)


def _shrink(image, max_pixels: int) -> None:
    """Let a JPEG decoder make a smaller picture where the whole one has too many pixels."""
    width, height = image.size
    if width * height <= max_pixels:
        return
    most = _PROGRESSIVE_SCALE if image.info.get("progressive") else 8
    for scale in (2, 4, 8):
        if scale <= most and -(-width // scale) * -(-height // scale) <= max_pixels:
            image.draft(None, (max(1, width // scale), max(1, height // scale)))
            return


def _jpeg_coding(data: bytes) -> int | None:
    """Return the marker that starts a JPEG picture, which tells its coding; None without one."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_STARTS:
            return marker
        if marker == 0xFF:  # filling
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without content
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _is_kept(kind: bytes, body: bytes, checksum: bytes) -> bool:
    """Tell whether an ancillary PNG chunk may change the picture."""
    whole = zlib.crc32(kind + body) == int.from_bytes(checksum, "big")
    if kind in _PNG_KEPT:
        # Without its transparency the picture would be another one: let the parser refuse that.
        return whole or kind == b"tRNS"
    if not whole or not body.startswith(_PNG_ORIENTATION):
        return False
    text = body.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] == b"\0"):
        return len(text) <= _PNG_TEXT_BYTES
    packed = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(packed, _PNG_TEXT_BYTES)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


def _jxl_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a JPEG XL file: its parser decodes before it says them.

    The codestream starts with them, in bits from the lowest on (ISO/IEC 18181-1, size header).
    """
    start = 0
    if data[:2] != b"\xff\x0a":
        # In a container, in the first of the boxes that hold it.
        boxes = [at for at in (data.find(b"jxlc"), data.find(b"jxlp")) if at >= 0]
        start = data.find(b"\xff\x0a", min(boxes, default=len(data)))
    if start < 0:
        return 0, 0
    bits = int.from_bytes(data[start + 2 : start + 18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = side(small)
    ratio = take(3)
    of = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    width = side(small) if not ratio else height * of[ratio - 1][0] // of[ratio - 1][1]
    return width, height
