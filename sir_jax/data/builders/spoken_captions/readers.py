"""Make what a record holds: the file of its picture as it is, and its captions as speech."""

import numpy as np

from sir_jax.data.builders import recorded
from sir_jax.data.builders.recorded import Rules
from sir_jax.data.builders.recordings import PlannedCaption, PlannedImage
from sir_jax.data.builders.spoken import speak
from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.errors import BadMedia


def read_sound(rules: Rules, caption: PlannedCaption) -> np.ndarray:
    """Return a caption as float32 [N] at 16 kHz; see `recorded.read_sound`.

    Raises:
      BadMedia: the synthesiser says nothing, or speaks too long.
    """
    wave = speak(caption)
    if len(wave) > rules.max_seconds * SAMPLE_RATE:
        seconds = len(wave) / SAMPLE_RATE
        raise BadMedia(
            f"{caption.audio}: {seconds:.1f} s, at most {rules.max_seconds:g} s (max_seconds)",
            "too long",
        )
    return wave


def read_picture(rules: Rules, image: PlannedImage) -> bytes:
    """Return the bytes of a picture; see `recorded.read_picture`.

    Raises:
      BadMedia: it cannot be used.
    """
    return recorded.read_picture(rules.folder / image.image, image.image)
