"""Plan a corpus: which scene, which words, which voice; no picture and no sound yet."""

import dataclasses

import numpy as np

from sir_jax.data.builders.spoken_scenes.captions import caption_text
from sir_jax.data.builders.spoken_scenes.config import SPLITS, SceneConfig
from sir_jax.data.builders.spoken_scenes.scenes import Scene, draw_scenes
from sir_jax.data.builders.spoken_scenes.voices import voices_of


@dataclasses.dataclass(frozen=True)
class PlannedCaption:
    """One utterance: its words, its speaker, words per minute and pitch (0 to 99)."""

    caption_id: int
    text: str
    speaker: str
    rate: int
    pitch: int


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One picture: the scene, the seed of its incidental looks, and its captions."""

    split: str
    image_id: int
    scene: Scene
    looks: tuple[int, ...]
    captions: tuple[PlannedCaption, ...]


def _plan_captions(config, scene, image_id, voices, rng) -> tuple[PlannedCaption, ...]:
    # Speakers repeat within an image only when there are fewer of them than captions.
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
    """Plan every image and caption of a corpus, a pure function of its config.

    Args:
      config: of the corpus.

    Returns:
      The images of train, val and test; image_id counts through, caption_id is
      image_id * captions + slot.

    Raises:
      UserError: a split has fewer distinct scenes than asked.
    """
    planned = []
    for part, split in enumerate(SPLITS):
        voices = voices_of(split, config.voices)
        scenes = draw_scenes(config.level, split, config.images(split), config.seed)
        for row, scene in enumerate(scenes):
            # The members of a minimal pair share looks, words and voices: only the swap differs.
            looks = (config.seed, part, row // 2 if config.level == "compositional" else row)
            image_id = len(planned)
            rng = np.random.default_rng([1, *looks])
            captions = _plan_captions(config, scene, image_id, voices, rng)
            planned.append(PlannedImage(split, image_id, scene, looks, captions))
    return planned
