"""Augmentation of images: crops and colours."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict
from picture_helpers import CLIP_MEAN, CLIP_STD, scene, spec
from PIL import Image

from sir_jax.config.presets import base_config
from sir_jax.data.media.image import ColorJitter, augment_image, preprocess_image
from sir_jax.errors import UserError


def test_augmentation_is_a_function_of_its_generator_and_never_flips():
    # Brightness rises from left to right, so it must rise in every crop.
    ramp = np.repeat(np.tile(np.arange(128, dtype=np.uint8), (128, 1))[..., None], 3, axis=2)
    image = Image.fromarray(ramp)
    crops = [
        augment_image(image, spec(16), np.random.default_rng(i), (0.5, 1.0)) for i in range(50)
    ]
    for crop in crops:
        assert crop.dtype == np.float32 and crop.shape == (16, 16, 3)
        assert (np.diff(crop[:, :, 0], axis=1) > 0).all()
    again = augment_image(image, spec(16), np.random.default_rng(0), (0.5, 1.0))
    np.testing.assert_array_equal(again, crops[0])
    assert len({crop.tobytes() for crop in crops}) > 40
    widths = [float(c[0, -1, 0] - c[0, 0, 0]) * CLIP_STD[0] * 255 / 15 * 16 for c in crops]
    # A crop with share s of the area and aspect ratio a is sqrt(s * a) wide. Each of the 128 pixels
    # is one grey level brighter than the pixel to its left.
    low, high = 128 * math.sqrt(0.5 * 3 / 4), 128
    assert low - 2 < min(widths) < 100 and 110 < max(widths) < high + 2


def test_augmentation_off_is_the_plain_preprocessing():
    image = Image.fromarray(scene(90, 60))
    actual = augment_image(image, spec(32), np.random.default_rng(0), (1.0, 1.0))
    np.testing.assert_array_equal(actual, preprocess_image(image, spec(32)))


@pytest.mark.parametrize("jitter", [ColorJitter(), ColorJitter(0.3, 0.3, 0.3, 0.5)])
def test_augmentation_fills_the_row_it_is_given(jitter):
    image, batch = Image.fromarray(scene(90, 60)), np.full((3, 32, 32, 3), np.nan, np.float32)
    rngs = [np.random.default_rng(5) for _ in range(2)]
    expected = augment_image(image, spec(32), rngs[0], (0.5, 1.0), jitter)
    augment_image(image, spec(32), rngs[1], (0.5, 1.0), jitter, out=batch[1])
    np.testing.assert_array_equal(batch[1], expected)
    assert np.isnan(batch[[0, 2]]).all()


def test_augmentation_of_a_very_long_picture_falls_back_to_the_centre():
    image = Image.fromarray(scene(900, 10))
    actual = augment_image(image, spec(32), np.random.default_rng(0), (0.9, 1.0))
    np.testing.assert_array_equal(actual, preprocess_image(image, spec(32)))


PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "grey": 0.0}


def jittered(seed: int = 0, scale=(1.0, 1.0), **amounts: float) -> np.ndarray:
    """Return an augmented image as values from 0 to 1, float64 [32, 32, 3]."""
    image = Image.fromarray(scene(90, 60))
    rng = np.random.default_rng(seed)
    actual = augment_image(image, spec(32), rng, scale, ColorJitter(**amounts))
    assert actual.dtype == np.float32
    return actual.astype(np.float64) * CLIP_STD + CLIP_MEAN


def draws(seed: int = 0) -> tuple[np.ndarray, float]:
    """Return the jitter's random draws: three from -1 to 1, and one from 0 to 1."""
    stream = np.random.default_rng(seed).spawn(1)[0]
    return stream.uniform(-1, 1, 3), stream.random()


def grey_of(pixels: np.ndarray) -> np.ndarray:
    return 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]


@pytest.mark.parametrize("seed", range(6))
def test_colour_changes_equal_their_formulas(seed):
    plain, (b, c, s) = jittered(), 1 + 0.8 * draws(seed)[0]
    np.testing.assert_allclose(jittered(seed, brightness=0.8), (plain * b).clip(0, 1), atol=2e-7)
    mean = grey_of(plain).mean()
    np.testing.assert_allclose(
        jittered(seed, contrast=0.8), (c * plain + (1 - c) * mean).clip(0, 1), atol=2e-7
    )
    grey = grey_of(plain)[..., None]
    np.testing.assert_allclose(
        jittered(seed, saturation=0.8), (s * plain + (1 - s) * grey).clip(0, 1), atol=2e-7
    )
    black_and_white = jittered(seed, grey=1.0)
    np.testing.assert_allclose(black_and_white, np.repeat(grey, 3, axis=2), atol=2e-7)


def test_all_colour_changes_in_their_order():
    b, c, s = 1 + np.array([0.4, 0.5, 0.6]) * draws(3)[0]
    expected = (jittered() * b).clip(0, 1)
    expected = (c * expected + (1 - c) * grey_of(expected).mean()).clip(0, 1)
    expected = (s * expected + (1 - s) * grey_of(expected)[..., None]).clip(0, 1)
    actual = jittered(3, brightness=0.4, contrast=0.5, saturation=0.6)
    np.testing.assert_allclose(actual, expected, atol=3e-7)


def test_images_become_grey_with_the_given_probability():
    greys = 0
    for seed in range(400):
        picture = jittered(seed, grey=0.25)
        is_grey = np.ptp(picture, axis=2).max() < 1e-6
        assert is_grey == (draws(seed)[1] < 0.25)
        greys += is_grey
    assert abs(greys - 100) < 40  # Binomial(400, 0.25) has a standard deviation of 8.7


def test_changes_of_colour_change_neither_the_crop_nor_each_other():
    for seed in range(4):
        crop = jittered(seed, (0.3, 1.0))
        b = 1 + 0.2 * draws(seed)[0][0]
        actual = jittered(seed, (0.3, 1.0), brightness=0.2)
        np.testing.assert_allclose(actual, (crop * b).clip(0, 1), atol=2e-7)
        rng, plain = np.random.default_rng(seed), np.random.default_rng(seed)
        image = Image.fromarray(scene(90, 60))
        augment_image(image, spec(32), rng, (0.3, 1.0), ColorJitter(brightness=0.2))
        augment_image(image, spec(32), plain, (0.3, 1.0))
        assert rng.bit_generator.state == plain.bit_generator.state


def test_colour_settings_are_checked():
    assert not ColorJitter().active
    config = base_config("tiny", "tiny").data.augment
    assert ColorJitter.from_config(config) == ColorJitter()
    for name in PLAIN:
        with pytest.raises(UserError, match=f"data.augment.image.{name}=1.5: must be from 0 to 1"):
            ColorJitter.from_config(ConfigDict({"image": PLAIN | {name: 1.5}}))
