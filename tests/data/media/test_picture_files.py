"""Picture files of every form: read, not supported, damaged, or no picture at all."""

import importlib.util
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sir_jax.data.media import picture_files
from sir_jax.data.media.image import load_image
from sir_jax.data.media.picture_files import without_side_data
from sir_jax.data.media.sniff import content_of
from sir_jax.errors import BadMedia


def scene(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 4, y * 6, x + y], axis=2).astype(np.uint8))


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def refused(data: bytes, name: str = "x") -> tuple[str, str]:
    """Return the message and the fault of a refused picture."""
    with pytest.raises(BadMedia) as caught:
        load_image(data, name)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.fault


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def with_chunks(data: bytes, *chunks: bytes, end: bool = False) -> bytes:
    """Return a PNG file with chunks behind its header, or before its end."""
    at = len(data) - 12 if end else 33
    return data[:at] + b"".join(chunks) + data[at:]


LONG = zlib.compress(b"x" * (1 << 21))
SIDE_DATA = {
    "profile": chunk(b"iCCP", b"name\0\0" + LONG),
    "packed text": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "packed international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "packed metadata": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "text": chunk(b"tEXt", b"Comment\0" + b"x" * (1 << 21)),
    "profile of another method": chunk(b"iCCP", b"name\0\7" + LONG[:9]),
    "checksum of a text": chunk(b"tEXt", b"Comment\0hello", crc=1),
    "checksum of a time": chunk(b"tIME", bytes(7), crc=1),
    "private data": chunk(b"prVt", bytes(99)),
}


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("what", SIDE_DATA)
def test_side_data_of_any_length_is_skipped(what, end):
    plain = encode(scene())
    data = with_chunks(plain, SIDE_DATA[what], end=end)
    assert without_side_data(data) == plain
    np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(scene()))


def test_sixty_texts_of_a_mebibyte_are_skipped():
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (1 << 20)))
    assert load_image(with_chunks(encode(scene()), *[text] * 70)).size == (60, 40)


def test_what_changes_a_picture_is_no_side_data():
    palette = scene().quantize(8)
    transparent = encode(palette, transparency=0)
    assert b"tRNS" in without_side_data(transparent)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(scene(), exif=exif)
    assert load_image(turned).size == (40, 60)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for packed in (False, True):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=packed)
        data = with_chunks(encode(scene(), pnginfo=info), SIDE_DATA["profile"])
        assert load_image(data).size == (40, 60)


def test_an_animation_is_its_first_frame():
    frames = [scene(), scene().transpose(Image.Transpose.ROTATE_180)]
    for file_format in ("PNG", "GIF", "WEBP"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(expected))


def test_a_jpeg_of_several_pictures_is_its_first(recwarn):
    data = encode(scene(), "MPO", save_all=True, append_images=[scene(30, 20)])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(load_image(data)), expected)
    # Without its last pictures, as programs cut it, Pillow warns.
    assert load_image(data[: data.find(b"\xff\xd9") + 2]).size == (60, 40)
    assert not recwarn.list


@pytest.mark.parametrize("file_format", ["AVIF", "TIFF", "HEIF", "JXL"])
def test_with_the_extra_more_formats_are_read(file_format, tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    pytest.importorskip("pillow_jxl")
    exact = {"AVIF": {"quality": 100}, "HEIF": {"quality": -1}, "JXL": {"lossless": True}}
    exif = Image.Exif()
    exif[0x0112] = 6
    # Stored turned, so that upright it is the scene.
    stored = scene().transpose(Image.Transpose.ROTATE_90)
    options = exact.get(file_format, {})
    turned = encode(stored, file_format, exif=exif.tobytes(), **options)
    if file_format == "JXL":
        # In JPEG XL the codestream tells the orientation; one that holds a JPEG file, that file.
        stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
        turned = encode(Image.open(tmp_path / "turned.jpg"), "JXL", lossless_jpeg=True)
    for data in (encode(scene(), file_format, **options), turned):
        image = load_image(data)
        assert image.mode == "RGB" and image.size == (60, 40)
        far = np.abs(np.asarray(image, np.int32) - np.asarray(scene(), np.int32))
        assert far.mean() < 2
        with pytest.raises(BadMedia, match="is more than 2399 pixels"):
            load_image(data, max_pixels=2399)
        half = refused(data[: len(data) // 2])
        assert half[0].startswith("x: damaged picture") and half[1] != "not supported"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"\xff\x0a\x00\x10", "JPEG XL"),
    ],
)
def test_without_the_extra_the_message_names_it(head, name, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "pillow_heif" else found(n, *a)
    )
    assert not picture_files.has_media_extra()
    assert refused(head + bytes(99)) == (
        f"x: {name} is not supported; convert it to JPEG or PNG, or pip install 'sir_jax[media]'",
        "not supported",
    )


def sof(marker: int, bits: int = 8) -> bytes:
    """Return a JPEG file whose picture starts with another marker or another depth."""
    data = encode(scene(), "JPEG")
    at = data.find(b"\xff\xc0")
    return data[: at + 1] + bytes([marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]


def crushed() -> bytes:
    """Return a PNG file as Xcode writes it: another first chunk, and no header of zlib."""
    data, header = encode(scene()), encode(scene())[8:33]
    pixels = zlib.decompress(data[data.find(b"IDAT") + 4 : -16])
    body = zlib.compress(pixels)[2:-4]
    return data[:8] + chunk(b"CgBI", bytes(4)) + header + chunk(b"IDAT", body) + data[-12:]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b'<?xml version="1.0"?><svg width="1"/>', "SVG"),
        (b"\0\0\1\0\1\0" + bytes(40), "ICO"),
        (b"P6 3 2 255\n" + bytes(18), "PNM"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's raw file"),
        (sof(0xC3), "lossless or hierarchical JPEG"),
        (sof(0xC1, bits=12), "JPEG of this kind (cannot handle 12-bit layers)"),
        (crushed(), "Apple's form of PNG"),
        (encode(scene(), "BMP")[:30] + b"\4" + encode(scene(), "BMP")[31:], "BMP of this kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_whole_file_of_another_kind_is_not_called_damaged(data, name):
    message, fault = refused(data)
    assert message.startswith(f"x: {name}") and fault == "not supported"
    assert message.endswith(" is not supported; convert it to JPEG or PNG")


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"dear diary", ""),
        (b"fLaC" + bytes(40), " but sound (flac)"),
        (b"%PDF-1.7", " but other content (pdf)"),
    ],
)
def test_other_content_is_no_picture(data, held):
    message, _ = refused(data)
    assert message.startswith(f"x: not a picture{held} (JPEG, PNG, ")


def test_damage_is_called_so():
    data = encode(scene())
    broken = data[:60] + b"\0\0\0\0" + data[64:]
    assert refused(broken)[0].startswith("x: damaged picture")
    assert refused(data[:70]) == (refused(data[:70])[0], "truncated")
    # A header of a picture, and nothing sensible behind it.
    assert refused(b"\xff\xd8\xff" + bytes(99))[0].startswith("x: damaged picture")


def test_brands_and_formats_are_told_by_content():
    for file_format, name in (("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")):
        assert content_of(encode(scene(), file_format)) == ("image", name)
    jpeg = encode(scene(), "JPEG")
    without_jfif = jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]
    assert content_of(without_jfif) == ("image", "jpeg")
    assert load_image(without_jfif).size == (60, 40)
    for size in (1, 8, 63, 256, 300, 5000):
        pytest.importorskip("pillow_jxl")
        data = encode(Image.new("L", (size, 48)), "JXL")
        assert picture_files._jxl_size(data) == (size, 48)
