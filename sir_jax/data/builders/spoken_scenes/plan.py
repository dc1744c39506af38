"""Plan a corpus: its scenes, words and voices. Nothing is rendered or synthesised here."""

import dataclasses

import numpy as np

from sir_jax.data.builders.spoken_scenes.captions import caption_text
from sir_jax.data.builders.spoken_scenes.config import SPLITS, SceneConfig
from sir_jax.data.builders.spoken_scenes.scenes import Scene, draw_scenes
from sir_jax.data.builders.spoken_scenes.voices import other_voices, voices_of
from sir_jax.data.media.synthesis.voice import Voice


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


def _spoken_by(caption: PlannedCaption, voice: Voice, rng, wide: bool) -> PlannedCaption:
    """Return the caption by a voice of another engine; `wide` varies rate and pitch more."""
    spread, steps = (0.15, 12) if wide else (0.06, 6)
    rate = round(voice.rate * rng.uniform(1 - spread, 1 + spread))
    pitch = voice.pitch + int(rng.integers(-steps, steps + 1))
    return dataclasses.replace(
        caption,
        speaker=voice.name,
        rate=rate,
        # Piper has no other pitch.
        pitch=50 if voice.engine == "piper" else pitch,
        language=voice.language,
        engine=voice.engine,
    )


def _share_captions(captions, voices, rng) -> tuple[PlannedCaption, ...]:
    """Give every second caption to other engines, in equal shares over their voices."""
    if not voices:
        return captions
    # In an image with one caption it is the one or the other.
    first = int(rng.integers(2))
    rounds = -(-len(captions) // len(voices))
    order = np.concatenate([rng.permutation(len(voices)) for _ in range(rounds)])
    return tuple(
        _spoken_by(caption, voices[order[slot]], rng, wide=True) if (slot + first) % 2 else caption
        for slot, caption in enumerate(captions)
    )


def _test_again(images: list[PlannedImage], split: str, voices, config) -> list[PlannedImage]:
    """Plan the pictures and words of 'test' once more, by an engine's held-out voices."""
    start = images[0].image_id + config.test_images * list(config.splits).index(split)
    start -= config.test_images * list(config.splits).index("test")
    again = []
    for row, image in enumerate(images):
        rng = np.random.default_rng([3, *image.looks])
        captions = tuple(
            dataclasses.replace(
                _spoken_by(caption, voices[slot % len(voices)], rng, wide=False),
                caption_id=(start + row) * config.captions + slot,
            )
            for slot, caption in enumerate(image.captions)
        )
        again.append(
            dataclasses.replace(image, split=split, image_id=start + row, captions=captions)
        )
    return again


def plan_corpus(config: SceneConfig) -> list[PlannedImage]:
    """Plan all images and captions of a corpus.

    The words, and the voices of eSpeak NG, do not depend on the engines: with more engines, other
    voices say some of the same captions.

    Args:
      config: parameters of the corpus.

    Returns:
      The images of the splits, in their order. `image_id` numbers them over all splits (see
      `SceneConfig.picture_of`); `caption_id` is image_id * captions + the caption's number.

    Raises:
      UserError: a split has fewer distinct scenes than `config` asks for.
    """
    planned = []
    engines = config.engines.split(",")
    for part, split in enumerate(SPLITS):
        voices = voices_of(split, config.voices)
        others = other_voices(engines, "train") if split == "train" else ()
        scenes = draw_scenes(config.level, split, config.images(split), config.seed)
        for row, scene in enumerate(scenes):
            # Both members of a minimal pair have the same looks, words and voices.
            looks = (config.seed, part, row // 2 if scene.swap >= 0 else row)
            image_id = len(planned)
            rng = np.random.default_rng([1, *looks])
            captions = _plan_captions(config, scene, image_id, voices, rng)
            captions = _share_captions(captions, others, np.random.default_rng([2, *looks]))
            planned.append(PlannedImage(split, image_id, scene, looks, captions))
    test = [image for image in planned if image.split == "test"]
    for split, engine in config.splits.items():
        if split not in SPLITS:
            planned += _test_again(test, split, other_voices([engine], "test"), config)
    return planned
