"""Pictures to preprocess, and the settings of CLIP's processor."""

import numpy as np

from sir_jax.data.media.image import ImageSpec

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def spec(size: int) -> ImageSpec:
    return ImageSpec(size, CLIP_MEAN, CLIP_STD)


def scene(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Return a smooth image with an edge and noise, uint8 [height, width, channels]."""
    rng = np.random.default_rng(width * 10_007 + height)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (5 + c)) + np.cos(y / (7 - c)) for c in range(channels)], -1)
    picture = 128 + 50 * waves + 20 * (x > width // 3)[..., None]
    picture += rng.normal(0, 8, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)
