"""Scenes: counts, splits that never mix, distinct draws, minimal pairs."""

import collections
import dataclasses

import numpy as np
import pytest

from sir_jax.data.builders.spoken_scenes.config import LEVELS, SPLITS
from sir_jax.data.builders.spoken_scenes.scenes import (
    MIXTURE,
    SWAPS,
    Scene,
    SceneObject,
    capacity,
    count_scenes,
    draw_scenes,
    signature,
    split_of,
    swapped,
)
from sir_jax.errors import UserError


def key(scene):
    return scene.objects, scene.relation, scene.background


def test_counts_have_the_expected_values():
    assert count_scenes("one") == 12 * 10 * 3 * 9 * 4 == 12_960
    assert count_scenes("two") == count_scenes("compositional") == 132 * 90 * 9 * 2 * 4
    three, four = 1320 * 84 * 30**3, 11_880 * 126 * 30**4
    assert count_scenes("several") == 4 * (three + four)
    # Beside the named object there is nothing, or another object (8 places x 119 other looks x 3
    # sizes), or two others (28 pairs of places).
    assert count_scenes("among") == 12_960 * (1 + 8 * 119 * 3 + 28 * 119 * 118 * 9)


def test_split_table_is_frozen():
    # These numbers must never change: shipped encoders were trained on the train scenes.
    assert [capacity("one", split) for split in SPLITS] == [8429, 1250, 3281]
    scene = Scene("one", (SceneObject(shape=3, colour=0, size=2, place=4),), -1, 1)
    assert signature(scene) == (1, ((3, 0, 2, 4),), 1)
    assert split_of(scene) == "train"


@pytest.mark.parametrize("level", LEVELS)
def test_draws_are_distinct_and_in_their_split(level):
    for split in SPLITS:
        scenes = draw_scenes(level, split, 300, seed=3)
        assert len(scenes) == 300
        assert len({key(scene) for scene in scenes}) == 300
        assert {split_of(scene) for scene in scenes} == {split}
        turn = MIXTURE if level == "mixed" else (level,)
        assert [scene.level for scene in scenes[:9]] == [turn[i % len(turn)] for i in range(9)]


def test_pairs_in_a_mixture_lie_beside_each_other():
    scenes = draw_scenes("mixed", "train", 64, seed=3)
    for row in range(0, 64, 2):
        if scenes[row].level == "compositional":
            assert swapped(scenes[row]) == scenes[row + 1]
    assert sum(scene.level == "compositional" for scene in scenes) == 32


@pytest.mark.parametrize("level", LEVELS)
def test_longer_draw_begins_with_the_shorter_one(level):
    longer = draw_scenes(level, "test", 120, seed=0)
    assert draw_scenes(level, "test", 40, seed=0) == longer[:40]
    assert draw_scenes(level, "test", 40, seed=1) != longer[:40]


def test_test_scenes_of_any_seed_are_in_no_train_split():
    train = {key(s) for seed in range(3) for s in draw_scenes("one", "train", 5000, seed)}
    test = {key(s) for seed in range(3, 6) for s in draw_scenes("one", "test", 2000, seed)}
    assert not train & test


def test_whole_split_can_be_drawn_and_no_more():
    total = capacity("one", "val")
    assert len({key(s) for s in draw_scenes("one", "val", total, 0)}) == total
    with pytest.raises(UserError, match=r"val_images is 1251; level one gives at most 1250"):
        draw_scenes("one", "val", total + 1, 0)
    with pytest.raises(UserError, match="level two gives at most"):
        draw_scenes("two", "val", count_scenes("two"), 0)


def test_every_attribute_value_is_in_every_split():
    for split in SPLITS:
        scenes = draw_scenes("one", split, 1000, seed=0)
        for field, size in (("shape", 12), ("colour", 10), ("size", 3), ("place", 9)):
            assert {getattr(s.objects[0], field) for s in scenes} == set(range(size))
        assert {s.background for s in scenes} == set(range(4))


def test_pairs_differ_in_one_binding_and_share_split_and_parts():
    scenes = draw_scenes("compositional", "train", 400, seed=0)
    assert {SWAPS[s.swap] for s in scenes} == set(SWAPS)
    for first, second in zip(scenes[::2], scenes[1::2], strict=True):
        assert second == swapped(first) and first == swapped(second)
        assert key(first) != key(second)
        assert signature(first) == signature(second)
        a, b = first.objects
        c, d = second.objects
        assert (a.place, b.place) == (c.place, d.place)
        if SWAPS[first.swap] == "relation":
            assert dataclasses.replace(a, place=b.place) == d
        else:
            attribute = SWAPS[first.swap]
            assert getattr(a, attribute) == getattr(d, attribute) != getattr(c, attribute)
            assert dataclasses.replace(a, **{attribute: getattr(c, attribute)}) == c


def test_two_object_scene_is_in_one_split_whatever_its_level():
    for scene in draw_scenes("two", "test", 200, seed=0):
        for swap in range(len(SWAPS)):
            other = swapped(dataclasses.replace(scene, level="compositional", swap=swap))
            assert split_of(other) == "test"


def test_objects_of_a_crowded_scene_have_places_and_shapes_of_their_own():
    for scene in draw_scenes("several", "train", 300, seed=0):
        count = len(scene.objects)
        assert count in (3, 4)
        assert len({o.place for o in scene.objects}) == count
        assert len({o.shape for o in scene.objects}) == count


def test_named_object_decides_the_split_and_is_like_no_other():
    counts = collections.Counter()
    for scene in draw_scenes("among", "test", 600, seed=0):
        named, *others = scene.objects
        alone = Scene("one", (named,), -1, scene.background)
        assert signature(scene) == signature(alone)
        assert split_of(alone) == "test"
        assert len({(o.shape, o.colour) for o in scene.objects}) == len(scene.objects)
        assert len({o.place for o in scene.objects}) == len(scene.objects)
        assert others == sorted(others, key=lambda o: o.place)
        counts[len(scene.objects)] += 1
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 150


def test_splits_have_their_shares():
    shares = np.array([capacity("one", split) for split in SPLITS]) / count_scenes("one")
    np.testing.assert_allclose(shares, [0.65, 0.10, 0.25], atol=0.02)
