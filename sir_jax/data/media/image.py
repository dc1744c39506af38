"""Load images, and turn them into the float arrays that an image encoder reads."""

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sir_jax.config.check import check_section
from sir_jax.data.media.picture_files import failure, open_picture, too_large
from sir_jax.data.media.sources import read_source
from sir_jax.errors import BadMedia, UserError

MAX_PIXELS = 25_000_000
# Grey levels of 255 by which something must differ from the ground it is laid on to be seen.
_SEEN = 16
# Grey levels that the eye takes for one colour.
_ONE_COLOUR = 2
# With a larger ratio of sides the whole resized image could exceed the memory.
_MAX_ASPECT = 16
# torchvision's RandomResizedCrop: bounds of the crop's aspect ratio, and draws before giving up.
_CROP_ASPECT = (3 / 4, 4 / 3)
_CROP_DRAWS = 10
# Rec. 601: the weights of red, green and blue in grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """The preprocessing that an image encoder needs.

    Attributes:
      size: side of the square in pixels.
      mean: subtracted from red, green and blue, which are from 0 to 1.
      std: divisor of red, green and blue after that.
      fit: how an image becomes square: "crop" resizes its short side and keeps the centre, as CLIP
        does; "squash" resizes both sides, as BLIP-2 does.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "crop"

    @classmethod
    def from_config(cls, data_cfg: Any) -> "ImageSpec":
        """Read `image_size`, `image_mean`, `image_std` and `image_fit` of `config.data`.

        Raises:
          UserError: a field is invalid. The message names it, its value and the valid values.
        """
        check_section("data", data_cfg)
        return cls(
            int(data_cfg.image_size),
            tuple(float(x) for x in data_cfg.image_mean),
            tuple(float(x) for x in data_cfg.image_std),
            data_cfg.image_fit,
        )


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random changes of colour in training; by default there are none.

    Attributes:
      brightness: x: values are multiplied by a random factor from 1 - x to 1 + x.
      contrast: x: the same for the differences to the image's mean grey.
      saturation: x: the same for the differences to each pixel's grey.
      grey: probability that the image becomes grey.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0

    @property
    def active(self) -> bool:
        """Tell whether any change has a strength or probability above 0."""
        return any(dataclasses.astuple(self))

    @classmethod
    def from_config(cls, augment_cfg: Any) -> "ColorJitter":
        """Read `data.augment.image`.

        Raises:
          UserError: a field is invalid. The message names it, its value and the valid values.
        """
        check_section("data.augment", augment_cfg)
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: float(augment_cfg.image[name]) for name in names})


def load_image(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray,
    name: str | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Load an image as upright 8-bit RGB.

    EXIF rotation is applied, 16 bits are reduced to 8, and grey, palette and CMYK images are
    converted. An animation gives its first frame. A PIL image that needs none of this is returned
    itself. A JPEG file with more pixels than `max_pixels` is decoded at a half, a quarter or an
    eighth of its sides.

    Transparency is laid on white; on black, if nothing would be seen on white; and is ignored, if
    nothing would be seen on either, as where it is 0 everywhere. To be seen, one value of one pixel
    must differ from the ground by 16 of 255 levels.

    Args:
      source: path, bytes or open file (JPEG, PNG, WebP, GIF, BMP; with `sir_jax[media]` also HEIC,
        AVIF, TIFF and JPEG XL), a PIL image, or an array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]
        of uint8 or uint16.
      name: name of the image in error messages; None for its path.
      max_pixels: largest width x height; it is checked before decoding.

    Raises:
      UserError: the image is damaged, not supported or too large. The message names it and the
        remedy.

    Example:
      >>> load_image(np.zeros((2, 3), np.uint8)).getpixel((0, 0))
      (0, 0, 0)
    """
    label, data = name or "picture", None
    if not isinstance(source, (Image.Image, np.ndarray)):
        label, data = read_source(source, name, "picture")
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, label, max_pixels)
        if data is None:
            return _to_rgb(_from_array(source, label), label, max_pixels)
        with open_picture(data, label, max_pixels) as image:
            return _to_rgb(image, label, max_pixels)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadMedia(
            f"{label}: more than {max_pixels} pixels; shrink it first", "too large"
        ) from None
    # On damaged data Pillow's parsers raise any exception: SyntaxError, struct.error, ...
    except Exception as error:
        raise failure(error, data or b"", label) from None


def blank_reason(image: Image.Image) -> str | None:
    """Say why nothing can be seen in a loaded image; None if something can.

    Args:
      image: RGB, from `load_image`.

    Example:
      >>> blank_reason(Image.new("RGB", (9, 9), "white"))
      'is of one colour (#ffffff)'
    """
    for ranges in _ranges(image):
        if any(high - low > _ONE_COLOUR for low, high in ranges):
            return None
    return "is of one colour (#{:02x}{:02x}{:02x})".format(*image.getpixel((0, 0)))


def preprocess_image(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Make an image square and normalise it.

    The result equals that of `CLIPImageProcessor` (fit "crop") or `BlipImageProcessor` ("squash")
    of `transformers` with their PIL backend, bit for bit. Only a cropped image with a ratio of
    sides above 16 may differ by one grey level: of it, just the part that the crop keeps is
    resized.

    Args:
      image: RGB.
      spec: the preprocessing.

    Returns:
      float32 [h, w, 3] with h = w = spec.size.
    """
    return _normalize(_make_square(image, spec), spec)


def _make_square(image: Image.Image, spec: ImageSpec) -> Image.Image:
    width, height = image.size
    if spec.fit == "squash":
        return image.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
    short, long = min(width, height), max(width, height)
    if long > _MAX_ASPECT * short:
        return _resize_centre(image, spec.size)
    new_long = int(spec.size * long / short)
    new = (spec.size, new_long) if width <= height else (new_long, spec.size)
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = ((side - spec.size) // 2 for side in new)
    return image.crop((left, top, left + spec.size, top + spec.size))


def augment_image(
    image: Image.Image,
    spec: ImageSpec,
    rng: np.random.Generator,
    scale: tuple[float, float],
    jitter: ColorJitter = ColorJitter(),
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Crop an image at random, resize it, change its colours at random, and normalise it.

    Images are never flipped, because captions say left and right. Crops are distributed as in
    torchvision's RandomResizedCrop: the share of the area is uniform in `scale`, and the logarithm
    of the aspect ratio is uniform for ratios from 3/4 to 4/3. If no draw fits into the image, the
    centre is cropped.

    Args:
      image: RGB.
      spec: the preprocessing.
      rng: random generator.
      scale: least and largest share of the area; (1.0, 1.0) turns random crops off.
      jitter: the random changes of colour; they do not change the draws of the crop.
      out: contiguous float32 [h, w, 3] to write the result into, such as a row of a batch; None for
        a new array.

    Returns:
      float32 [h, w, 3] with h = w = spec.size.
    """
    square = _crop_at_random(image, spec, rng, scale)
    if not jitter.active:
        return _normalize(square, spec, out)
    values = _jitter_colors(np.asarray(square) / 255, jitter, rng.spawn(1)[0])
    out = np.empty(values.shape, np.float32) if out is None else out
    out[...] = values
    return _standardize(out, spec)


def _crop_at_random(
    image: Image.Image, spec: ImageSpec, rng: np.random.Generator, scale: tuple[float, float]
) -> Image.Image:
    if tuple(scale) == (1.0, 1.0):
        return _make_square(image, spec)
    width, height = image.size
    for _ in range(_CROP_DRAWS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*map(math.log, _CROP_ASPECT)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = (left, top, min(left + w, width), min(top + h, height))
            return image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
    return _make_square(image, spec)


def _jitter_colors(pixels: np.ndarray, jitter: ColorJitter, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, then contrast, then saturation, and make some images grey.

    The formulas are those of torchvision for values from 0 to 1. Each step clips to that range.

    Args:
      pixels: float64 [h, w, 3].
      jitter: the strengths.
      rng: random generator; the number of draws does not depend on `jitter`.

    Returns:
      float64 [h, w, 3].
    """
    draws = rng.uniform(-1, 1, 3)
    brightness, contrast, saturation = 1 + draws * dataclasses.astuple(jitter)[:3]
    to_grey = rng.random() < jitter.grey
    if jitter.brightness:
        pixels = (pixels * brightness).clip(0, 1)
    if jitter.contrast:
        mean = _grey(pixels).mean()
        pixels = (mean + contrast * (pixels - mean)).clip(0, 1)
    if jitter.saturation:
        grey = _grey(pixels)
        pixels = (grey + saturation * (pixels - grey)).clip(0, 1)
    return np.broadcast_to(_grey(pixels), pixels.shape) if to_grey else pixels


def _grey(pixels: np.ndarray) -> np.ndarray:
    # Not a matrix product: BLAS would use all its threads.
    return sum(pixels[..., c : c + 1] * share for c, share in enumerate(_LUMA))


def _normalize(image: Image.Image, spec: ImageSpec, out: np.ndarray | None = None) -> np.ndarray:
    # `transformers` multiplies by 1 / 255 in float64 and rounds to float32. Division in float32
    # gives the same for each of the 256 values.
    pixels = np.empty((spec.size, spec.size, 3), np.float32) if out is None else out
    np.divide(np.asarray(image), np.float32(255), out=pixels, dtype=np.float32)
    return _standardize(pixels, spec)


def _standardize(pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Subtract the means and divide by the deviations, in place."""
    # In whole rows: broadcasting over 3 channels takes four times as long in NumPy.
    rows = pixels.reshape(spec.size, 3 * spec.size)
    rows -= np.tile(np.asarray(spec.mean, np.float32), spec.size)
    rows /= np.tile(np.asarray(spec.std, np.float32), spec.size)
    return pixels


def _resize_centre(image: Image.Image, size: int) -> Image.Image:
    """Resize and centre-crop a very long image without resizing the whole of it."""
    axis = int(image.height > image.width)
    long, short = image.size[axis], image.size[1 - axis]
    new_long = int(size * long / short)
    step = long / new_long  # source pixels per resized pixel
    start = (new_long - size) // 2 * step
    # The bicubic filter reaches 2 pixels of the coarser grid to either side. The image is cut first
    # to keep coordinates small, because Pillow stores a box in float32.
    margin = math.ceil(2 * max(step, 1)) + 1
    low = max(0, math.floor(start) - margin)
    high = min(long, math.ceil(start + size * step) + margin)
    span, box = (low, high), (start - low, start - low + size * step)
    if axis == 0:
        cut = image.crop((span[0], 0, span[1], short))
        return cut.resize((size, size), Image.Resampling.BICUBIC, box=(box[0], 0, box[1], short))
    cut = image.crop((0, span[0], short, span[1]))
    return cut.resize((size, size), Image.Resampling.BICUBIC, box=(0, box[0], short, box[1]))


def _to_rgb(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise too_large(label, width, height, max_pixels)
    if not width * height:
        raise BadMedia(f"{label}: {width} x {height} has no pixels; replace or remove it")
    image.load()
    if _is_rotated(image):
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or (image.mode == "I" and image.getextrema()[1] > 65535):
        raise BadMedia(
            f"{label}: pixels of 32 bits have no agreed range; give 8 or 16 bits", "not supported"
        )
    if image.mode.startswith("I"):
        return _from_array(np.asarray(image).clip(0, 65535).astype(np.uint16), label).convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours are multiplied by their alpha already
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        return _on_ground(image if image.mode == "RGBA" else image.convert("RGBA"))
    # `convert` would copy an RGB image.
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_ground(image: Image.Image) -> Image.Image:
    """Lay an RGBA image on white, or on black if nothing of it would be seen on white."""
    for ground in (255, 0):
        paper = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        laid = Image.alpha_composite(paper, image).convert("RGB")
        for ranges in _ranges(laid):
            if max(abs(value - ground) for pair in ranges for value in pair) >= _SEEN:
                return laid
    return image.convert("RGB")


def _ranges(image: Image.Image) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the least and largest value of each channel, of a few pixels and then of all."""
    # The few tell nearly every image apart from an empty one, at no cost.
    yield image.resize((24, 24), Image.Resampling.NEAREST).getextrema()
    yield image.getextrema()


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    # Broken EXIF is common and no reason to refuse an image. Pillow raises many exceptions for it.
    except Exception:
        return False


def _from_array(array: np.ndarray, label: str) -> Image.Image:
    if array.dtype == np.uint16:
        # 65535 / 255 = 257; + 128 rounds to the nearest grey level.
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{label}: pixels of {array.dtype}; give uint8 or uint16")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise UserError(f"{label}: shape {array.shape} is not [h, w], [h, w, 3] or [h, w, 4]")
    return Image.fromarray(array)
