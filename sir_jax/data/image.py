"""Pictures to the float arrays that an image encoder reads."""

import dataclasses
import io
import math
import os
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sir_jax.data.sources import read_source
from sir_jax.errors import UserError

MAX_PIXELS = 25_000_000
FITS = ("crop", "squash")
# Pillow's other parsers have a history of holes, and nobody keeps a photo collection in them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Beyond this ratio of sides, the whole resized picture would not fit in memory.
_MAX_ASPECT = 16
# torchvision's RandomResizedCrop: bounds of the crop's aspect ratio, and draws before giving up.
_CROP_ASPECT = (3 / 4, 4 / 3)
_CROP_DRAWS = 10


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """What an image encoder wants: a square of `size` pixels, less `mean`, over `std` (RGB).

    `fit` says how a picture becomes square: "crop" resizes the short side and cuts out the centre,
    as CLIP does; "squash" resizes both sides, as BLIP-2 does.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "crop"

    @classmethod
    def from_config(cls, data_cfg: Any) -> "ImageSpec":
        """Read `image_size`, `image_mean`, `image_std` and `image_fit` of a data config.

        Raises:
          UserError: a size below 1, not three means and three positive deviations, or an unknown
            fit.
        """
        spec = cls(
            int(data_cfg.image_size),
            tuple(float(x) for x in data_cfg.image_mean),
            tuple(float(x) for x in data_cfg.image_std),
            data_cfg.image_fit,
        )
        if spec.fit not in FITS:
            raise UserError(f"data.image_fit={spec.fit!r} is none of {', '.join(FITS)}")
        if spec.size < 1:
            raise UserError(f"data.image_size={spec.size}: must be at least 1")
        if len(spec.mean) != 3 or len(spec.std) != 3 or min(spec.std) <= 0:
            raise UserError(
                f"data.image_mean={spec.mean}, data.image_std={spec.std}: "
                "give three numbers each, deviations above 0"
            )
        return spec


def load_image(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray,
    name: str | None = None,
) -> Image.Image:
    """Load a picture as upright 8-bit RGB.

    EXIF rotation is applied, transparency laid on white, 16 bits brought to 8, and grey,
    palette and CMYK converted. Of a moving picture, the first frame.

    Args:
      source: path, bytes or open file (JPEG, PNG, WebP, GIF, BMP), a PIL image, or an array
        [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] of uint8 or uint16.
      name: what error messages call it; where None, its path.

    Raises:
      UserError: names the file and what is wrong; pictures of more than `MAX_PIXELS` are
        refused by their header, before they are decoded.
    """
    label, data = name or "picture", None
    if not isinstance(source, (Image.Image, np.ndarray)):
        label, data = read_source(source, name, "picture")
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, label)
        if data is None:
            return _to_rgb(_from_array(source, label), label)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _to_rgb(image, label)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{label}: more than {MAX_PIXELS} pixels; shrink it first") from None
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{label}: not a picture (JPEG, PNG, WebP, GIF or BMP); replace or remove it"
        ) from None
    # Pillow's parsers let anything escape on damaged data: SyntaxError, struct.error, ...
    except Exception as error:
        raise UserError(f"{label}: damaged picture ({error}); replace or remove it") from None


def preprocess_image(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Make a picture square as `spec.fit` says, and normalise.

    Equals transformers' `CLIPImageProcessor` ("crop") or `BlipImageProcessor` ("squash"), with
    their PIL backend, bit for bit: bicubic, long side rounded down, value / 255, less mean, over
    deviation. Cropped sides of a ratio above 16 agree to one grey level: only the part that the
    crop keeps is resized.

    Args:
      image: RGB.
      spec: size in pixels, mean and deviation per channel.

    Returns:
      float32 [h, w, 3] with h = w = spec.size.
    """
    width, height = image.size
    if spec.fit == "squash":
        squashed = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
        return _normalize(squashed, spec)
    short, long = min(width, height), max(width, height)
    if long > _MAX_ASPECT * short:
        return _normalize(_resize_centre(image, spec.size), spec)
    new_long = int(spec.size * long / short)
    new = (spec.size, new_long) if width <= height else (new_long, spec.size)
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = ((side - spec.size) // 2 for side in new)
    return _normalize(image.crop((left, top, left + spec.size, top + spec.size)), spec)


def augment_image(
    image: Image.Image, spec: ImageSpec, rng: np.random.Generator, scale: tuple[float, float]
) -> np.ndarray:
    """Take a random crop and resize it; never flip, because captions say left and right.

    The distribution is torchvision's RandomResizedCrop: share of the area uniform in `scale`,
    log aspect ratio uniform in 3/4 to 4/3, the centre where no draw fits.

    Args:
      image: RGB.
      spec: size in pixels, mean and deviation per channel.
      rng: where the draws come from.
      scale: least and largest share of the area; (1.0, 1.0) means no augmentation.

    Returns:
      float32 [h, w, 3] with h = w = spec.size.
    """
    if tuple(scale) == (1.0, 1.0):
        return preprocess_image(image, spec)
    width, height = image.size
    for _ in range(_CROP_DRAWS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*map(math.log, _CROP_ASPECT)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = (left, top, min(left + w, width), min(top + h, height))
            size = (spec.size, spec.size)
            return _normalize(image.resize(size, Image.Resampling.BICUBIC, box=box), spec)
    return preprocess_image(image, spec)


def _normalize(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    # transformers rescales in float64, rounds to float32, and goes on in float32.
    pixels = (np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32)
    return (pixels - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)


def _resize_centre(image: Image.Image, size: int) -> Image.Image:
    """Resize and centre-crop a very long picture without making the whole resized one."""
    axis = int(image.height > image.width)
    long, short = image.size[axis], image.size[1 - axis]
    new_long = int(size * long / short)
    step = long / new_long  # source pixels per resized pixel
    start = (new_long - size) // 2 * step
    # The bicubic filter reaches 2 pixels (of the coarser grid) to either side. Cutting first
    # keeps the coordinates small: Pillow holds a box in float32.
    margin = math.ceil(2 * max(step, 1)) + 1
    low = max(0, math.floor(start) - margin)
    high = min(long, math.ceil(start + size * step) + margin)
    span, box = (low, high), (start - low, start - low + size * step)
    if axis == 0:
        cut = image.crop((span[0], 0, span[1], short))
        return cut.resize((size, size), Image.Resampling.BICUBIC, box=(box[0], 0, box[1], short))
    cut = image.crop((0, span[0], short, span[1]))
    return cut.resize((size, size), Image.Resampling.BICUBIC, box=(0, box[0], short, box[1]))


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{label}: {width} x {height} is more than {MAX_PIXELS} pixels; shrink it first"
        )
    if not width * height:
        raise UserError(f"{label}: {width} x {height} has no pixels; replace or remove it")
    image.load()
    if _is_rotated(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _from_array(np.asarray(image).clip(0, 65535).astype(np.uint16), label).convert("RGB")
    if image.mode == "F":
        raise UserError(f"{label}: float pixels have no agreed range; give 8 or 16 bits")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    # Broken EXIF is common and no reason to refuse a sound picture; Pillow raises what it likes.
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
