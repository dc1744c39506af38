"""Captions describe their scene, completely at level one."""

import collections

import numpy as np
import pytest

from sir_jax.data.builders.spoken_scenes.captions import (
    PLACE_PHRASES,
    RELATION_PHRASES,
    SIZE_WORDS,
    attributes,
    caption_text,
    vocabulary,
    words_of,
)
from sir_jax.data.builders.spoken_scenes.config import LEVELS, SceneConfig
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.spoken_scenes.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    draw_scenes,
)


def understand(text):
    """Read (shape, colour, size, place, background) from a caption."""
    words = words_of(text)
    flat = " ".join(words)
    # The longest place phrase counts: "at the top" is a part of "at the top left".
    places = [(len(p), i) for i, group in enumerate(PLACE_PHRASES) for p in group if p in flat]
    size = next(i for i, group in enumerate(SIZE_WORDS) if set(group) & set(words))
    shape, colour, background = (
        next(i for i, w in enumerate(table) if w in words)
        for table in (SHAPES, COLOURS, BACKGROUNDS)
    )
    return shape, colour, size, max(places)[1], background


def test_tables_have_one_row_per_value():
    assert len(PLACE_PHRASES) == len(PLACES)
    assert len(SIZE_WORDS) == len(SIZES)
    assert len(RELATION_PHRASES) == len(RELATIONS)


@pytest.mark.parametrize("level", ["one", "among"])
def test_caption_tells_all_of_one_object_in_few_words(level):
    rng = np.random.default_rng(0)
    for scene in draw_scenes(level, "train", 2000, seed=0):
        text = caption_text(scene, rng)
        thing = scene.objects[0]
        expected = (thing.shape, thing.colour, thing.size, thing.place, scene.background)
        assert understand(text) == expected, text
        assert 7 <= len(words_of(text)) <= 12, text


def test_wording_varies():
    scene = Scene("one", (SceneObject(shape=0, colour=1, size=0, place=0),), -1, 2)
    rng = np.random.default_rng(0)
    texts = {caption_text(scene, rng) for _ in range(300)}
    assert len(texts) == 6 * 2 * 2  # templates x size words x place phrases
    assert "a small orange circle at the top left on a dotted background" in texts
    assert "in the upper left a little orange circle on a dotted background" in texts


def test_article_follows_the_next_word():
    scene = Scene("two", (SceneObject(0, 1, 1, 3), SceneObject(1, 0, 1, 5)), 0, 0)
    rng = np.random.default_rng(0)
    texts = " | ".join(caption_text(scene, rng) for _ in range(100))
    assert "an orange circle" in texts and "a medium orange circle" in texts
    assert "a orange" not in texts and "an medium" not in texts and "an red" not in texts


@pytest.mark.parametrize(
    "relation, said", [(0, {"left of": 1, "right of": -1}), (1, {"above": 1, "below": -1})]
)
def test_relation_is_said_in_the_right_direction(relation, said):
    synonyms = {"over": "above", "under": "below", "to the left of": "left of"}
    scene = Scene("two", (SceneObject(0, 0, 0, 3), SceneObject(1, 4, 2, 5)), relation, 0)
    rng = np.random.default_rng(1)
    directions = collections.Counter()
    for _ in range(200):
        text = caption_text(scene, rng)
        for phrase, plain in synonyms.items():
            text = text.replace(phrase, plain)
        phrase = next(p for p in said if p in text)
        circle_first = text.index("circle") < text.index(phrase) < text.index("square")
        square_first = text.index("square") < text.index(phrase) < text.index("circle")
        assert circle_first != square_first
        assert circle_first == (said[phrase] == 1), text
        directions[phrase] += 1
    assert min(directions[p] for p in said) > 50


def test_minimal_pairs_are_the_same_words_and_voices_in_another_order():
    config = SceneConfig("compositional", 200, 2, 2, captions=3, seed=5)
    plan = plan_corpus(config)
    for first, second in zip(plan[::2], plan[1::2], strict=True):
        for a, b in zip(first.captions, second.captions, strict=True):
            assert a.text != b.text
            assert sorted(words_of(a.text)) == sorted(words_of(b.text))
            assert (a.speaker, a.rate, a.pitch) == (b.speaker, b.rate, b.pitch)


def test_crowded_scene_names_every_object_with_its_place():
    rng = np.random.default_rng(0)
    for scene in draw_scenes("several", "train", 200, seed=0):
        text = caption_text(scene, rng)
        for thing in scene.objects:
            spoken = [
                f"{COLOURS[thing.colour]} {SHAPES[thing.shape]} {p}"
                for p in PLACE_PHRASES[thing.place]
            ]
            assert any(s in text for s in spoken), (text, spoken)


def test_vocabulary_is_exactly_the_words_of_all_captions():
    rng = np.random.default_rng(0)
    said = set()
    for level in LEVELS:
        for scene in draw_scenes(level, "train", 1000, seed=0):
            said.update(words_of(caption_text(scene, rng)))
    assert said == set(vocabulary())
    assert list(vocabulary()) == sorted(vocabulary())


def test_no_word_belongs_to_two_attributes():
    # Words of places such as "left" and "top" repeat among places, but in no other attribute.
    tables = [SHAPES, COLOURS, BACKGROUNDS, sum(SIZE_WORDS, ())]
    places = {w for group in PLACE_PHRASES for phrase in group for w in phrase.split()}
    words = [w for table in tables for w in table]
    assert len(words) == len(set(words))
    assert not places & set(words)


def test_attributes_are_columns_of_indices():
    scene = Scene("two", (SceneObject(1, 2, 0, 3), SceneObject(4, 5, 2, 5)), 0, 3)
    assert attributes(scene) == {
        "shape": (1, 4),
        "colour": (2, 5),
        "size": (0, 2),
        "place": (3, 5),
        "background": (3,),
        "relation": (0,),
    }
