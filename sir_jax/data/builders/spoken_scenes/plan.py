"""Plan a corpus: its scenes, words and voices. Nothing is rendered or synthesised here."""

import dataclasses

import numpy as np

from sir_jax.data.builders.spoken_scenes.captions import caption_text
from sir_jax.data.builders.spoken_scenes.config import SPLITS, SceneConfig
from sir_jax.data.builders.spoken_scenes.scenes import Scene, draw_scenes
from sir_jax.data.builders.spoken_scenes.voices import voices_of


@dataclasses.dataclass(frozen=True)
class PlannedCaption:
    """One caption to be spoken."""

    caption_id: int
    text: str
    speaker: str
    rate: int  # words per minute
    pitch: int  # 0 to 99
    language: str = "en"
    engine: str = "espeak"


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One image to be rendered, with its captions."""

    split: str
    image_id: int
    scene: Scene
    looks: tuple[int, ...]  # seed of the details that captions do not mention
    captions: tuple[PlannedCaption, ...]


def _plan_captions(config, scene, image_id, voices, rng) -> tuple[PlannedCaption, ...]:
    # A speaker repeats within an image only if there are fewer speakers than captions.
    rounds = -(-config.captions // len(voices))
    order = np.concatenate([rng.permutation(len(voices)) for _ in range(rounds)])
    captions = []
    for slot, index in enumerate(order[: config.captions]):
        voice = voices[index]
        captions.append(
            PlannedCaption(
                caption_id=image_id * config.captions + slot,
                text=caption_text(scene, rng),
                speaker=voice.name,
                rate=round(voice.rate * rng.uniform(0.94, 1.06)),
                pitch=voice.pitch + int(rng.integers(-6, 7)),
            )
        )
    return tuple(captions)


def plan_corpus(config: SceneConfig) -> list[PlannedImage]:
    """Plan all images and captions of a corpus.

    Args:
      config: parameters of the corpus.

    Returns:
      The images of train, val and test. `image_id` numbers them over all splits; `caption_id` is
      image_id * captions + the caption's number.

    Raises:
      UserError: a split has fewer distinct scenes than `config` asks for.
    """
    planned = []
    for part, split in enumerate(SPLITS):
        voices = voices_of(split, config.voices)
        scenes = draw_scenes(config.level, split, config.images(split), config.seed)
        for row, scene in enumerate(scenes):
            # Both members of a minimal pair have the same looks, words and voices.
            looks = (config.seed, part, row // 2 if config.level == "compositional" else row)
            image_id = len(planned)
            rng = np.random.default_rng([1, *looks])
            captions = _plan_captions(config, scene, image_id, voices, rng)
            planned.append(PlannedImage(split, image_id, scene, looks, captions))
    return planned
