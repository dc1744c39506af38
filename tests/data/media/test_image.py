"""Images: parity with the processors of transformers, odd formats, and bad files."""

import io
import struct
import zlib

import numpy as np
import pytest
from picture_helpers import CLIP_MEAN, CLIP_STD, scene, spec
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sir_jax.data.media.image import (
    ImageSpec,
    blank_reason,
    load_image,
    preprocess_image,
)
from sir_jax.errors import UserError


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def reference(image: Image.Image, size: int) -> np.ndarray:
    """Return the result of `transformers`, float32 [size, size, 3]."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
    )
    return np.moveaxis(processor(image, return_tensors="np").pixel_values[0], 0, -1)


def grey_levels(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two normalised images, in grey levels."""
    return float(np.abs((a - b) * np.array(CLIP_STD) * 255).max())


def refusal(source, **kwargs) -> str:
    """Return the error message for a source; it must have one line."""
    with pytest.raises(UserError) as caught:
        load_image(source, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize("size", [63, 64, 224])
@pytest.mark.parametrize(
    ("width", "height"),
    [(128, 128), (64, 64), (500, 375), (375, 500), (65, 64), (63, 64), (1, 1), (3, 2), (7, 100)],
)
def test_equals_clip_processor_bit_for_bit(width, height, size):
    image = Image.fromarray(scene(width, height))
    actual = preprocess_image(load_image(encode(image)), spec(size))
    assert actual.dtype == np.float32 and actual.shape == (size, size, 3)
    np.testing.assert_array_equal(actual, reference(image, size))


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (500, 375), (7, 100), (1, 1), (2000, 1), (1, 2000)]
)
def test_squash_equals_blip_processor_bit_for_bit(width, height):
    image = Image.fromarray(scene(width, height))
    actual = preprocess_image(
        load_image(encode(image)), ImageSpec(48, CLIP_MEAN, CLIP_STD, "squash")
    )
    processor = BlipImageProcessorPil(size={"height": 48, "width": 48})
    expected = np.moveaxis(processor(image, return_tensors="np").pixel_values[0], 0, -1)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 2000), (2000, 1), (3000, 100), (100, 3001), (33, 2), (17, 1)]
)
def test_very_long_pictures_agree_to_one_grey_level(width, height):
    image = Image.fromarray(scene(width, height))
    actual = preprocess_image(image, spec(32))
    assert grey_levels(actual, reference(image, 32)) <= 1.001


def test_longest_possible_picture_needs_no_huge_memory():
    ramp = np.repeat(np.linspace(0, 255, 24_000_000).astype(np.uint8)[None, :, None], 3, axis=2)
    actual = preprocess_image(load_image(ramp), spec(64))
    centre = (127.5 / 255 - np.array(CLIP_MEAN)) / CLIP_STD
    assert grey_levels(actual, np.broadcast_to(centre, actual.shape)) <= 1.5


def test_huge_picture_equals_clip_processor():
    image = Image.fromarray(np.tile(scene(250, 200), (20, 20, 1)))
    assert image.width * image.height == 20_000_000
    np.testing.assert_array_equal(preprocess_image(image, spec(32)), reference(image, 32))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1"])
def test_every_mode_equals_clip_processor(mode):
    base = (
        Image.fromarray(scene(90, 70, 4), "RGBA") if "A" in mode else Image.fromarray(scene(90, 70))
    )
    image = base.convert(mode)
    file_format = "JPEG" if mode == "CMYK" else "PNG"
    data = encode(image, file_format)
    opened = Image.open(io.BytesIO(data))
    assert opened.mode == mode
    actual = load_image(data)
    assert actual.mode == "RGB"
    np.testing.assert_array_equal(preprocess_image(actual, spec(32)), reference(opened, 32))
    np.testing.assert_array_equal(np.asarray(load_image(opened)), np.asarray(actual))


def test_transparency_is_laid_on_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:, 3] = 255
    expected = np.full((4, 4, 3), 255, np.uint8)
    expected[:, 2:] = 0
    np.testing.assert_array_equal(np.asarray(load_image(pixels)), expected)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((3, 3), 0)
    laid = load_image(encode(palette, transparency=1))
    assert laid.getpixel((0, 0)) == (255, 255, 255) and laid.getpixel((3, 3)) == (0, 0, 0)


def drawing(ink: int, alpha: int = 255, around: int = 0) -> np.ndarray:
    """Return a disc of one grey with soft edges on transparency, uint8 [40, 40, 4]."""
    y, x = np.mgrid[:40, :40] - 20
    inside = (15 - np.hypot(x, y)).clip(0, 1)
    pixels = np.full((40, 40, 4), ink, np.uint8)
    pixels[..., 3] = around + inside * (alpha - around)
    return pixels


def laid_on(pixels: np.ndarray, ground: int) -> np.ndarray:
    paper = Image.new("RGBA", pixels.shape[1::-1], (ground, ground, ground, 255))
    return np.asarray(Image.alpha_composite(paper, Image.fromarray(pixels)).convert("RGB"))


@pytest.mark.parametrize(
    ("ink", "alpha", "ground"),
    [(0, 255, 255), (128, 60, 255), (239, 255, 255), (240, 255, 0), (255, 255, 0), (255, 40, 0)],
)
def test_a_drawing_is_laid_on_the_ground_it_shows_on(ink, alpha, ground):
    pixels = drawing(ink, alpha)
    expected = laid_on(pixels, ground)
    assert np.ptp(expected) >= 16
    image = Image.fromarray(pixels)
    sources = [pixels, image, encode(image), encode(image, "WEBP", lossless=True, exact=True)]
    for source in [*sources, image.convert("LA"), encode(image.convert("LA"))]:
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


def test_a_white_palette_drawing_on_transparency_shows():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.putpixel((2, 1), 0)
    for data in (encode(picture, transparency=1), encode(picture, "GIF", transparency=1)):
        actual = np.asarray(load_image(data))
        assert (actual[1, 2] == 255).all() and actual.sum() == 3 * 255


@pytest.mark.parametrize("alpha", [0, 9])
def test_alpha_that_hides_everything_is_ignored(alpha):
    """Programs leave the fourth byte of a 32-bit bitmap at 0, or at anything."""
    pixels = np.dstack([scene(40, 30), np.full((30, 40), alpha, np.uint8)])
    image = Image.fromarray(pixels)
    bitmap = encode(Image.fromarray(pixels[..., :3]), "BMP")  # 24 bits
    header = struct.pack("<IiiHHIIiiII", 108, 40, -30, 1, 32, 3, 0, 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    body = pixels[..., [2, 1, 0, 3]].tobytes()
    bitmap = struct.pack("<2sIII", b"BM", 122 + len(body), 0, 122) + header + masks + body
    assert Image.open(io.BytesIO(bitmap)).mode == "RGBA"
    sources = [pixels, image, encode(image), bitmap]
    if alpha:
        dark = pixels.copy()
        dark[..., :3] //= 2
        sources, pixels = [dark], dark
    for source in sources:
        np.testing.assert_array_equal(np.asarray(load_image(source)), pixels[..., :3])


def test_a_picture_of_one_colour_is_said():
    white = load_image(encode(Image.new("RGB", (50, 40), "white"), "JPEG"))
    assert blank_reason(white) == "is of one colour (#ffffff)"
    assert blank_reason(load_image(np.zeros((9, 9, 4), np.uint8))) == "is of one colour (#000000)"
    white.putpixel((31, 7), (255, 252, 255))
    assert blank_reason(white) is None
    assert blank_reason(load_image(drawing(255))) is None


def test_sixteen_bits_become_eight():
    grey = scene(80, 60)[:, :, 0]
    deep = grey.astype(np.uint16) * 257
    data = encode(Image.fromarray(deep))
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    expected = reference(Image.fromarray(grey), 32)
    for source in (data, deep, deep[:, :, None], Image.open(io.BytesIO(data))):
        assert grey_levels(preprocess_image(load_image(source), spec(32)), expected) == 0
    colour = scene(80, 60)
    np.testing.assert_array_equal(load_image(colour.astype(np.uint16) * 257), colour)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied(file_format):
    upright = Image.fromarray(scene(90, 60))
    # Orientation 6: the stored image must be turned clockwise by a quarter turn.
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if file_format == "PNG" else {"quality": 100}
    data = encode(stored, file_format, exif=exif, **options)
    actual = load_image(data)
    assert actual.size == (90, 60)
    plain = Image.open(io.BytesIO(encode(stored, file_format, **options))).convert("RGB")
    expected = reference(plain.transpose(Image.Transpose.ROTATE_270), 32)
    np.testing.assert_array_equal(preprocess_image(actual, spec(32)), expected)


def test_broken_exif_is_no_reason_to_refuse():
    image = Image.fromarray(scene(20, 20))
    data = encode(image, "JPEG", exif=b"Exif\0\0broken")
    assert load_image(data).size == (20, 20)


def test_text_named_jpg_is_refused(tmp_path):
    path = tmp_path / "letter.jpg"
    path.write_text("not a picture at all\n" * 20)
    assert refusal(path).startswith(f"{path}: not a picture")
    assert "no such file" in refusal(tmp_path / "absent.png")
    assert refusal("https://host/a.jpg").startswith("https://host/a.jpg: is a URL; download it")
    assert "folder" in refusal(tmp_path)
    assert "empty" in refusal(b"", name="void.png")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_picture_is_refused(file_format):
    data = encode(Image.fromarray(scene(200, 150)), file_format)
    assert load_image(data).size == (200, 150)
    assert refusal(data[: len(data) // 2], name="half").startswith("half: damaged")


def test_bad_arrays_are_refused():
    assert "float32" in refusal(np.zeros((4, 4, 3), np.float32))
    assert "(3, 4, 4)" not in refusal(np.zeros((0, 4, 3), np.uint8))
    assert "(3, 9, 9)" in refusal(np.zeros((3, 9, 9), np.uint8))
    assert "32 bits" in refusal(Image.new("F", (4, 4)))
    assert "32 bits" in refusal(Image.new("I", (4, 4), 70_000))


@pytest.mark.parametrize("side", [5_001, 12_000, 60_000])
def test_bomb_is_refused_by_its_header(side):
    """A few hundred bytes can claim to hold 3.6 thousand million pixels."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    assert "25000000 pixels" in refusal(data + chunk(b"IEND", b""), name="bomb")


def test_every_grey_level_equals_that_of_transformers():
    levels = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2))
    plain = ImageSpec(16, (0.0,) * 3, (1.0,) * 3)
    expected = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    np.testing.assert_array_equal(preprocess_image(levels, plain)[..., 0].ravel(), expected)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_limit_of_pixels_is_held_before_decoding(file_format):
    data = encode(Image.fromarray(scene(200, 150)), file_format)
    assert load_image(data, max_pixels=30_000).size == (200, 150)
    # Half a file has a complete header; only the parser of WebP refuses it at once.
    unread = data if file_format == "WEBP" else data[: len(data) // 2]
    assert file_format == "WEBP" or "damaged" in refusal(unread)
    if file_format != "JPEG":
        assert refusal(unread, name="big", max_pixels=29_999) == (
            "big: 200 x 150 is more than 29999 pixels; shrink it first"
        )


@pytest.mark.parametrize(
    ("most", "size"),
    [(30_000, (200, 150)), (29_999, (100, 75)), (7_499, (50, 38)), (1_899, (25, 19))],
)
def test_a_jpeg_of_more_pixels_comes_at_a_smaller_scale(most, size):
    smooth = Image.fromarray(scene(50, 38)).resize((200, 150), Image.Resampling.BICUBIC)
    data = encode(smooth, "JPEG", quality=95)
    actual = load_image(data, max_pixels=most)
    assert actual.size == size
    whole = np.asarray(load_image(data).resize(size, Image.Resampling.BOX), np.int32)
    assert np.abs(np.asarray(actual, np.int32) - whole).mean() < 3
    assert "200 x 150 is more than 474 pixels" in refusal(data, max_pixels=474)
    # A progressive file is held whole while it is decoded, at any scale.
    slow = encode(smooth, "JPEG", progressive=True)
    assert load_image(slow, max_pixels=7_500).size == (100, 75)
    assert "200 x 150 is more than 7499 pixels" in refusal(slow, max_pixels=7_499)


def test_a_large_jpeg_is_read_without_a_warning_and_upright():
    # 91 megapixels: Pillow itself would warn.
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("L", (11_400, 8_000), 90), "JPEG", exif=exif)
    image = load_image(data)
    assert image.size == (4_000, 5_700) and image.getpixel((7, 7)) == (90, 90, 90)
