"""Rendered images show their scene, and no object is cut off."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from sir_jax.data.builders.spoken_scenes.render import (
    _OUTLINES,
    _RGB,
    encode_png,
    object_masks,
    render,
)
from sir_jax.data.builders.spoken_scenes.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    draw_scenes,
    swapped,
)


def one(shape=0, colour=0, size=2, place=4, background=0):
    return Scene("one", (SceneObject(shape, colour, size, place),), -1, background)


def pixels(scene, size=64, looks=(0, 0, 0)):
    return np.asarray(render(scene, size, looks), np.float64)


def difference(scene, size=128, looks=(0, 0, 0)):
    """Return which pixels the object changes, bool [h, w]."""
    empty = pixels(dataclasses.replace(scene, objects=()), size, looks)
    return np.abs(pixels(scene, size, looks) - empty).max(axis=2) > 8


def test_picture_is_a_pure_function_of_scene_and_looks():
    scene = one(shape=3, background=2)
    first = pixels(scene)
    assert first.shape == (64, 64, 3)
    np.testing.assert_array_equal(first, pixels(scene))
    assert np.abs(first - pixels(scene, looks=(0, 0, 1))).max() > 20


def test_png_is_lossless():
    picture = render(one(), 48, (1, 2, 3))
    back = Image.open(io.BytesIO(encode_png(picture)))
    assert back.format == "PNG" and back.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(back), np.asarray(picture))


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_object_has_its_colour(colour):
    centre = pixels(one(shape=1, colour=colour))[29:35, 29:35].mean(axis=(0, 1))
    distances = {name: np.abs(centre - rgb).max() for name, rgb in _RGB.items()}
    assert min(distances, key=distances.get) == COLOURS[colour]
    assert distances[COLOURS[colour]] <= 9


@pytest.mark.parametrize("place", range(len(PLACES)))
def test_object_is_in_its_place_and_whole(place):
    for shape, looks in itertools.product(range(len(SHAPES)), range(4)):
        mask = difference(one(shape=shape, size=2, place=place), looks=(9, 9, looks))
        rows, columns = np.nonzero(mask)
        cell = int(rows.mean() / 128 * 3) * 3 + int(columns.mean() / 128 * 3)
        assert cell == place
        # An object in the outermost pixels would be cut by the image's edge.
        assert rows.min() > 0 and columns.min() > 0 and max(rows.max(), columns.max()) < 127


def test_sizes_are_told_apart():
    for shape in range(len(SHAPES)):
        areas = [difference(one(shape=shape, size=s)).sum() for s in range(len(SIZES))]
        assert areas[1] > 1.6 * areas[0] and areas[2] > 1.6 * areas[1]


def test_small_shapes_differ_at_64_pixels():
    masks = [difference(one(shape=s, size=0), size=64) for s in range(len(SHAPES))]
    for a, b in itertools.combinations(masks, 2):
        overlap = (a & b).sum() / (a | b).sum()
        assert overlap < 0.9
    assert min(m.sum() for m in masks) > 25


def test_backgrounds_are_told_apart():
    empty = [
        pixels(dataclasses.replace(one(background=b), objects=())) for b in range(len(BACKGROUNDS))
    ]
    # The three patterns have contrast, the plain background has none.
    contrast = [picture.std(axis=(0, 1)).max() for picture in empty]
    assert contrast[0] == 0 and min(contrast[1:]) > 8
    for a, b in itertools.combinations(empty, 2):
        assert np.abs(a - b).mean() > 5


def test_every_outline_stays_near_the_unit_circle():
    for name, outline in _OUTLINES.items():
        radius = np.hypot(*outline.T)
        assert 0.9 < radius.max() < 1.3, name


def test_members_of_a_pair_differ_only_in_the_swap():
    for scene in draw_scenes("compositional", "train", 30, seed=0)[::2]:
        first, second = pixels(scene, 128), pixels(swapped(scene), 128)
        changed = np.abs(first - second).max(axis=2) > 8
        assert changed.sum() > 100
        both = difference(scene) | difference(swapped(scene))
        assert not (changed & ~both).any()


def test_objects_of_crowded_scenes_do_not_hide_each_other():
    for scene in draw_scenes("several", "train", 60, seed=0):
        alone = [
            difference(dataclasses.replace(scene, objects=(*[thing] * len(scene.objects),)))
            for thing in scene.objects
        ]
        for a, b in itertools.combinations(alone, 2):
            assert (a & b).sum() < 0.06 * min(a.sum(), b.sum())


def test_masks_tell_which_pixels_show_which_object():
    red = SceneObject(shape=1, colour=COLOURS.index("red"), size=2, place=0)
    blue = SceneObject(shape=0, colour=COLOURS.index("blue"), size=0, place=8)
    scene = Scene("two", (red, blue), 0, BACKGROUNDS.index("dotted"))
    masks, picture = object_masks(scene, 64, (0, 1, 2)), pixels(scene, 64, (0, 1, 2))
    assert masks.shape == (2, 64, 64) and not (masks[0] & masks[1]).any()
    for mask, thing, corner in zip(masks, (red, blue), (0, 64), strict=True):
        rows, columns = np.nonzero(mask)
        assert abs(rows.mean() - corner) < 24 and abs(columns.mean() - corner) < 24
        # Most pixels of an object have its colour; the others are its edge.
        far = np.abs(picture[mask] - _RGB[COLOURS[thing.colour]]).max(axis=1)
        assert np.median(far) < 12
    # The areas of a large and a small object are as the squares of their radii, about 5 to 1.
    ratio = masks[0].sum() / masks[1].sum()
    assert 3 < ratio < 7
    assert object_masks(dataclasses.replace(scene, objects=()), 64, (0, 1, 2)).shape == (0, 64, 64)
