"""Scenes: the content of images, their splits, and random draws of distinct scenes.

A hash of a scene's signature fixes its split. A test scene of one corpus is therefore never a
training scene of another corpus, whatever the seeds. Two-object scenes that differ only in which
object has which attribute have the same signature, in level `two` and in level `compositional`. In
level `among` the signature is that of the named object, as in level `one`.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Iterator

import numpy as np

from sir_jax.errors import UserError

# The words of an attribute must not sound alike: hence no grey (green) and no white (right).
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "moon",
    "cross",
    "arrow",
    "diamond",
    "flower",
    "fish",
    "house",
)
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "turquoise",
)
SIZES = ("small", "medium", "large")
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "middle",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
BACKGROUNDS = ("plain", "striped", "dotted", "checkered")
RELATIONS = ("left of", "above")
# The attribute in which the members of a minimal pair differ; "relation" swaps the objects.
SWAPS = ("colour", "size", "relation")

# The levels of eight successive scenes of level `mixed`; a minimal pair begins at an even number.
MIXTURE = ("one", "among", "several", "several", *("compositional",) * 4)

# Cumulative shares of all scenes. Never change them: shipped encoders were trained on train scenes.
_SPLIT_ENDS = {"train": 0.65, "val": 0.75, "test": 1.0}
_SPLIT_SEED = {"train": 0, "val": 1, "test": 2}
# The largest share of a split that can be drawn: beyond it, rejection sampling becomes too slow.
_DRAWABLE = 0.5


@dataclasses.dataclass(frozen=True, order=True)
class SceneObject:
    """One object of a scene; its fields are indices into SHAPES, COLOURS, SIZES and PLACES."""

    shape: int
    colour: int
    size: int
    place: int


@dataclasses.dataclass(frozen=True)
class Scene:
    """The content of an image.

    Attributes:
      level: the level that the scene was drawn for; in a corpus of level `mixed` one of the others.
      objects: one to four objects. Of two related objects the first is the left or the upper one;
        in level `among` the first is the one that captions name.
      relation: index into RELATIONS, of the first object to the second; -1 without a relation.
      background: index into BACKGROUNDS.
      swap: index into SWAPS for a member of a minimal pair, else -1.
    """

    level: str
    objects: tuple[SceneObject, ...]
    relation: int
    background: int
    swap: int = -1


def signature(scene: Scene) -> tuple:
    """Return the signature that fixes a scene's split."""
    if scene.relation < 0:
        named = scene.objects[:1] if scene.level == "among" else scene.objects
        things = tuple(sorted(dataclasses.astuple(o) for o in named))
        return (len(things), things, scene.background)
    return (
        "pair",
        tuple(sorted(o.shape for o in scene.objects)),
        tuple(sorted(o.colour for o in scene.objects)),
        tuple(sorted(o.size for o in scene.objects)),
        scene.relation,
        scene.background,
    )


def split_of(scene: Scene) -> str:
    """Return the split that a scene belongs to in every corpus."""
    digest = hashlib.blake2b(repr(signature(scene)).encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return next(name for name, end in _SPLIT_ENDS.items() if share < end)


def swapped(scene: Scene) -> Scene:
    """Return the other member of a minimal pair."""
    first, second = scene.objects
    attribute = SWAPS[scene.swap]
    if attribute == "relation":
        pair = (
            dataclasses.replace(second, place=first.place),
            dataclasses.replace(first, place=second.place),
        )
    else:
        pair = (
            dataclasses.replace(first, **{attribute: getattr(second, attribute)}),
            dataclasses.replace(second, **{attribute: getattr(first, attribute)}),
        )
    return dataclasses.replace(scene, objects=pair)


def _all_one() -> Iterator[Scene]:
    attributes = (SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS)
    for *thing, background in itertools.product(*(range(len(a)) for a in attributes)):
        yield Scene("one", (SceneObject(*thing),), -1, background)


# For each relation, the cells of the 3 x 3 grid that hold the two objects.
PAIR_PLACES = ((3, 5), (1, 7))


def _draw_two(rng: np.random.Generator, level: str) -> Scene:
    shapes = rng.choice(len(SHAPES), 2, replace=False)
    colours = rng.choice(len(COLOURS), 2, replace=False)
    sizes = rng.integers(len(SIZES), size=2)
    relation = int(rng.integers(len(RELATIONS)))
    swap = -1
    if level == "compositional":
        swap = int(rng.integers(len(SWAPS)))
        if SWAPS[swap] == "size":
            # Small and large, so that the two members differ visibly even at 64 pixels.
            sizes = rng.permutation((0, 2))
    objects = tuple(
        SceneObject(int(s), int(c), int(z), place)
        for s, c, z, place in zip(shapes, colours, sizes, PAIR_PLACES[relation], strict=True)
    )
    return Scene(level, objects, relation, int(rng.integers(len(BACKGROUNDS))), swap)


def _draw_several(rng: np.random.Generator) -> Scene:
    count = int(rng.integers(3, 5))
    places = sorted(int(p) for p in rng.choice(len(PLACES), count, replace=False))
    shapes = rng.choice(len(SHAPES), count, replace=False)
    colours = rng.integers(len(COLOURS), size=count)
    sizes = rng.integers(len(SIZES), size=count)
    objects = tuple(
        SceneObject(int(s), int(c), int(z), p)
        for s, c, z, p in zip(shapes, colours, sizes, places, strict=True)
    )
    return Scene("several", objects, -1, int(rng.integers(len(BACKGROUNDS))))


def _draw_among(rng: np.random.Generator) -> Scene:
    count = int(rng.integers(1, 4))
    places = rng.choice(len(PLACES), count, replace=False)
    # Objects must differ in shape or colour, or a caption could mean either.
    looks = rng.choice(len(SHAPES) * len(COLOURS), count, replace=False)
    sizes = rng.integers(len(SIZES), size=count)
    named, *others = (
        SceneObject(int(look) // len(COLOURS), int(look) % len(COLOURS), int(z), int(place))
        for look, z, place in zip(looks, sizes, places, strict=True)
    )
    others.sort(key=lambda thing: thing.place)
    return Scene("among", (named, *others), -1, int(rng.integers(len(BACKGROUNDS))))


def count_scenes(level: str) -> int:
    """Return the number of distinct scenes of a level over all splits."""
    if level == "one":
        return math.prod(map(len, (SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS)))
    if level == "among":
        looks = len(SHAPES) * len(COLOURS)
        return count_scenes("one") * sum(
            math.comb(len(PLACES) - 1, n) * math.perm(looks - 1, n) * len(SIZES) ** n
            for n in range(3)
        )
    if level == "several":
        looks = len(COLOURS) * len(SIZES)
        return len(BACKGROUNDS) * sum(
            math.perm(len(SHAPES), n) * math.comb(len(PLACES), n) * looks**n for n in (3, 4)
        )
    frames = len(RELATIONS) * len(BACKGROUNDS)
    return frames * math.perm(len(SHAPES), 2) * math.perm(len(COLOURS), 2) * len(SIZES) ** 2


def capacity(level: str, split: str) -> int:
    """Return the number of distinct scenes that can be drawn from a split of a level."""
    if level == "one":
        return len(_members(split))
    if level == "mixed":
        return min(capacity(one, split) * len(MIXTURE) // MIXTURE.count(one) for one in {*MIXTURE})
    start = {"train": 0.0, "val": _SPLIT_ENDS["train"], "test": _SPLIT_ENDS["val"]}[split]
    return int(count_scenes(level) * (_SPLIT_ENDS[split] - start) * _DRAWABLE)


@functools.cache
def _members(split: str) -> tuple[Scene, ...]:
    return tuple(scene for scene in _all_one() if split_of(scene) == split)


def draw_scenes(level: str, split: str, count: int, seed: int) -> list[Scene]:
    """Draw distinct scenes of one split; with a larger count, the first scenes stay the same.

    Args:
      level: one of LEVELS. In `compositional` both members of a pair follow each other; `mixed`
        has scenes of the levels that `MIXTURE` names, in turn.
      split: 'train', 'val' or 'test'.
      count: number of scenes.
      seed: random seed.

    Raises:
      UserError: the split has fewer scenes of this level.
    """
    limit = capacity(level, split)
    if count > limit:
        raise UserError(
            f"{split}_images is {count}; level {level} gives at most {limit} distinct {split} "
            "scenes, ask for fewer or for a richer level"
        )
    if level == "mixed":
        turns = -(-count // len(MIXTURE))
        parts = {
            one: iter(draw_scenes(one, split, turns * MIXTURE.count(one), seed))
            for one in dict.fromkeys(MIXTURE)
        }
        return [next(parts[MIXTURE[row % len(MIXTURE)]]) for row in range(count)]
    rng = np.random.default_rng([seed, _SPLIT_SEED[split]])
    if level == "one":
        members = _members(split)
        return [members[i] for i in rng.permutation(len(members))[:count]]
    draws = {"among": _draw_among, "several": _draw_several}
    draw = draws.get(level, functools.partial(_draw_two, level=level))
    drawn: dict[tuple, Scene] = {}
    while len(drawn) < count:
        scene = draw(rng)
        group = (scene, swapped(scene)) if level == "compositional" else (scene,)
        # Nor may two pairs share a member.
        keys = [(member.objects, member.relation, member.background) for member in group]
        if split_of(scene) == split and not any(key in drawn for key in keys):
            drawn.update(zip(keys, group, strict=True))
    return list(drawn.values())
