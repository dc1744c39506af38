"""Captions of scenes: phrases, templates, and the words that they can contain.

Captions of level `one` name every attribute in which scenes differ; those of `among`, every
attribute of the first object. In level `compositional` both members of a pair get the same template
and phrases, so that their n-th captions consist of exactly the same words.
"""

import dataclasses
import re

import numpy as np

from sir_jax.data.builders.spoken_scenes.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SWAPS,
    Scene,
    SceneObject,
)

SIZE_WORDS = (("small", "little"), ("medium",), ("large", "big"))
PLACE_PHRASES = (
    ("at the top left", "in the upper left"),
    ("at the top",),
    ("at the top right", "in the upper right"),
    ("on the left", "at the left"),
    ("in the middle", "in the center"),
    ("on the right", "at the right"),
    ("at the bottom left", "in the lower left"),
    ("at the bottom",),
    ("at the bottom right", "in the lower right"),
)
# For each relation: phrases for the first object relative to the second, and the reverse.
RELATION_PHRASES = (
    (("to the left of", "left of"), ("to the right of", "right of")),
    (("above", "over"), ("below", "under")),
)
TEMPLATES_ONE = (
    "{a_thing} {place} on a {background} background",
    "{place} {a_thing} on a {background} background",
    "on a {background} background {a_thing} {place}",
    "a {background} background with {a_thing} {place}",
    "{background} background, {a_thing} {place}",
    "there is {a_thing} {place}, {background} background",
)
TEMPLATES_TWO = (
    "{first} {relation} {second}",
    "there is {first} {relation} {second}",
    "{first} {relation} {second} on a {background} background",
    "on a {background} background {first} {relation} {second}",
)
TEMPLATES_SEVERAL = ("{things}", "{things} on a {background} background", "I see {things}")


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _noun(thing: SceneObject, size_word: str) -> str:
    words = (size_word, COLOURS[thing.colour], SHAPES[thing.shape])
    return _with_article(" ".join(word for word in words if word))


def _caption_one(scene: Scene, rng: np.random.Generator) -> str:
    thing = scene.objects[0]
    return _pick(rng, TEMPLATES_ONE).format(
        a_thing=_noun(thing, _pick(rng, SIZE_WORDS[thing.size])),
        place=_pick(rng, PLACE_PHRASES[thing.place]),
        background=BACKGROUNDS[scene.background],
    )


def _caption_pair(scene: Scene, rng: np.random.Generator) -> str:
    template = _pick(rng, TEMPLATES_TWO)
    reverse = int(rng.integers(2))
    relation = _pick(rng, RELATION_PHRASES[scene.relation][reverse])
    with_size = bool(rng.random() < 0.7)
    if scene.level == "compositional":
        # Captions name the size if the members differ in it; else both do, or neither.
        with_size = with_size or SWAPS[scene.swap] == "size"
    # One synonym per size. With one per object, both members of a pair could get different words.
    synonyms = [_pick(rng, words) if with_size else "" for words in SIZE_WORDS]
    nouns = [_noun(thing, synonyms[thing.size]) for thing in scene.objects]
    return template.format(
        first=nouns[reverse],
        second=nouns[1 - reverse],
        relation=relation,
        background=BACKGROUNDS[scene.background],
    )


def _caption_several(scene: Scene, rng: np.random.Generator) -> str:
    phrases = []
    for index in rng.permutation(len(scene.objects)):
        thing = scene.objects[index]
        size = _pick(rng, SIZE_WORDS[thing.size]) if rng.random() < 0.5 else ""
        phrases.append(f"{_noun(thing, size)} {_pick(rng, PLACE_PHRASES[thing.place])}")
    things = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return _pick(rng, TEMPLATES_SEVERAL).format(
        things=things, background=BACKGROUNDS[scene.background]
    )


_BY_LEVEL = {
    "one": _caption_one,
    "among": _caption_one,
    "two": _caption_pair,
    "several": _caption_several,
    "compositional": _caption_pair,
}


def caption_text(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption of a scene.

    Args:
      scene: a scene of any level.
      rng: draws template, word order and synonyms. With equal draws both members of a minimal pair
        get captions of the same words.
    """
    return _BY_LEVEL[scene.level](scene, rng)


def words_of(text: str) -> list[str]:
    """Return the words of a caption, without punctuation.

    Example:
      >>> words_of("red star, plain background")
      ['red', 'star', 'plain', 'background']
    """
    return re.findall(r"[A-Za-z]+", text)


def vocabulary() -> tuple[str, ...]:
    """Return all words that captions of any level can contain, sorted."""
    texts = [*SHAPES, *COLOURS, *BACKGROUNDS, "a an and"]
    for table in (*SIZE_WORDS, *PLACE_PHRASES, *(p for both in RELATION_PHRASES for p in both)):
        texts.extend(table)
    for template in (*TEMPLATES_ONE, *TEMPLATES_TWO, *TEMPLATES_SEVERAL):
        texts.append(re.sub(r"\{\w+\}", " ", template))
    return tuple(sorted({word for text in texts for word in words_of(text)}))


def attributes(scene: Scene) -> dict[str, tuple[int, ...]]:
    """Return a scene's labels by attribute, as indices into SHAPES, COLOURS and so on.

    Returns:
      'shape', 'colour', 'size' and 'place' have one index per object; 'background' and 'relation'
      have one index.
    """
    columns = {
        field.name: tuple(getattr(thing, field.name) for thing in scene.objects)
        for field in dataclasses.fields(SceneObject)
    }
    return columns | {"background": (scene.background,), "relation": (scene.relation,)}
