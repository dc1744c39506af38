"""Make what a stamp's record holds: PNG of its picture, and recordings or synthesised speech."""

import numpy as np

from sir_jax.data.builders.recorded import Rules, read_picture_bytes, read_recording
from sir_jax.data.builders.recordings import HUMAN, PlannedCaption, PlannedImage
from sir_jax.data.builders.spoken import speak
from sir_jax.data.media.image import load_image
from sir_jax.data.media.svg import draw_svg
from sir_jax.errors import BadMedia

# Pixels of the longer side of a picture that comes as SVG.
SIDE = 384


def read_sound(rules: Rules, caption: PlannedCaption) -> np.ndarray:
    """Return a recording, or speak it, as float32 [N] at 16 kHz; see `recorded.read_sound`.

    Raises:
      BadMedia: it cannot be used, or is silent.
    """
    if caption.engine != HUMAN:
        return speak(caption)
    wave = read_recording(rules.folder / caption.audio, rules, caption.audio)
    if not wave.any():
        raise BadMedia(f"{caption.audio}: digitally silent", "silent")
    return wave


def read_picture(rules: Rules, image: PlannedImage) -> bytes:
    """Return a PNG picture as it is, or an SVG picture drawn; b"" where none is planned.

    Raises:
      BadMedia: it cannot be used.
    """
    if not image.image:
        return b""
    data = read_picture_bytes(rules.folder / image.image, image.image)
    if image.image.lower().endswith(".svg"):
        data = draw_svg(data, image.image, SIDE)
    load_image(data, image.image)
    return data
