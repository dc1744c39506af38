"""Do attention maps point at what was named? Scenes of spoken_scenes know where each object is.

Asked of maps of cross-attention, and of how much the match depends on each patch:

peak    is the patch with the largest weight on the object that the recording names? By chance: the
        share of the patches that are.
choice  where there are several objects: is the most weight on the named one, for each patch that an
        object covers? By chance: one in as many as there are.

Each in pictures that show the object alone, and in pictures that show others beside it: those of
level `among`; or, for level `one`, with the object of another picture drawn into its own.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image

from sir_jax.data.builders.spoken_scenes.plan import PlannedImage
from sir_jax.data.builders.spoken_scenes.render import object_masks, render
from sir_jax.data.builders.spoken_scenes.scenes import Scene
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio
from sir_jax.data.media.image import load_image
from sir_jax.inference.attention import Attention
from sir_jax.inference.retriever import Retriever

LEVELS = ("one", "among")
MAPS = ("attention", "dependence")
# Of a patch, from which it counts as showing the object.
_COVERED = 0.25


def patch_shares(mask: np.ndarray, side: int) -> np.ndarray:
    """Return which share of each patch a mask covers.

    Args:
      mask: bool[size, size]; side need not divide size.
      side: patches along a side.

    Returns:
      float32[side, side].
    """
    # Each pixel side x side times, so that every patch is whole pixels.
    fine = mask.astype(np.float32).repeat(side, axis=0).repeat(side, axis=1)
    return fine.reshape(side, len(mask), side, len(mask)).mean(axis=(1, 3))


def maps_of(found: Attention) -> dict[str, np.ndarray]:
    """Return each kind of `MAPS`, float32[side, side], summing to 1."""
    return {"attention": found.during(0.0, found.seconds), "dependence": found.by_patch}


def beside(named: PlannedImage, other: PlannedImage) -> Scene | None:
    """Put the object of another picture beside the named one.

    Returns:
      The scene, the named object first; None where the two are neighbours or the same thing.
    """
    a, b = named.scene.objects[0], other.scene.objects[0]
    across = abs(a.place % 3 - b.place % 3)
    down = abs(a.place // 3 - b.place // 3)
    if max(across, down) < 2 or (a.shape, a.colour) == (b.shape, b.colour):
        return None
    return dataclasses.replace(named.scene, objects=(a, b))


def partner(place: int, planned: list[PlannedImage]) -> Scene | None:
    """Return the named picture with the object of the first picture after it that fits."""
    for step in range(1, len(planned)):
        scene = beside(planned[place], planned[(place + step) % len(planned)])
        if scene is not None:
            return scene
    return None


@dataclasses.dataclass
class Tally:
    """Hits out of tries, and what chance would give."""

    hits: float = 0.0
    tries: int = 0
    chance: float = 0.0

    def add(self, hit: bool, chance: float) -> None:
        """Count one try."""
        self.hits, self.tries, self.chance = self.hits + hit, self.tries + 1, self.chance + chance

    @property
    def line(self) -> str:
        """Return the rate, chance, and how many standard errors lie between them."""
        rate, chance = self.hits / self.tries, self.chance / self.tries
        error = max((chance * (1 - chance) / self.tries) ** 0.5, 1e-12)
        return (
            f"{100 * rate:5.1f} %  (chance {100 * chance:4.1f} %, {(rate - chance) / error:+.0f} "
            f"standard errors, {self.tries} clips)"
        )


def shown(plan: PlannedImage, picture: Image.Image, planned: list[PlannedImage]) -> Iterator:
    """Yield (scene, picture) of what a recording is looked at with, its named object first."""
    yield plan.scene, picture
    if plan.scene.level == "one" and (both := partner(planned.index(plan), planned)):
        yield both, render(both, picture.size[0], plan.looks)


def judge(weights: np.ndarray, masks: np.ndarray) -> Iterator[tuple[str, bool, float]]:
    """Yield (question, hit, chance) of one map.

    Args:
      weights: float[side, side].
      masks: bool[objects, size, size], the named object first.
    """
    side, kind = len(weights), "alone" if len(masks) == 1 else "beside"
    shares = np.stack([patch_shares(mask, side) for mask in masks])
    named = shares[0] >= _COVERED
    yield f"{kind} peak", bool(named.flat[int(np.argmax(weights))]), float(named.mean())
    if len(masks) > 1:
        # By what each covers, or the larger one would win.
        density = (weights * shares).sum((1, 2)) / shares.sum((1, 2))
        yield f"{kind} choice", bool(density[0] > density[1:].max()), 1 / len(masks)


def measure(model: Retriever, split, planned: list[PlannedImage], clips: int) -> dict[str, Tally]:
    """Look at recordings of a split with their pictures.

    Args:
      model: with a matching head.
      split: a `sir_jax.data.corpus.Split` of a spoken_scenes corpus of a level of `LEVELS`.
      planned: its images.
      clips: how many recordings, one a picture.

    Returns:
      A tally for each question and kind of map, keyed 'alone peak attention' and so on.
    """
    tallies: dict[str, Tally] = {}
    plans = {plan.image_id: plan for plan in planned}
    for row in range(min(clips, len(split))):
        record = split[row]  # not in the order of the plan
        plan = plans[record.image_id]
        speech = load_audio(record.captions[0].audio), SAMPLE_RATE
        for scene, picture in shown(plan, load_image(record.image), planned):
            masks = object_masks(scene, picture.size[0], plan.looks)
            for kind, weights in maps_of(model.attention(speech, picture)).items():
                for question, hit, chance in judge(weights, masks):
                    tallies.setdefault(f"{question} {kind}", Tally()).add(hit, chance)
    return dict(sorted(tallies.items()))
