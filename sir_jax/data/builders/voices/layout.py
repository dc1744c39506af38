"""The layout of a corpus of recordings with their text and without pictures."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import soundfile

from sir_jax.data.builders.recordings import HUMAN, Layout, Plan, PlannedCaption, PlannedImage
from sir_jax.data.builders.spoken import (
    ESPEAK,
    number_of,
    planned_speech,
)
from sir_jax.data.builders.tux_paint_stamps.groups import content, joined
from sir_jax.data.builders.tux_paint_stamps.package import read_stamps
from sir_jax.data.builders.voices.config import VoicesConfig, is_of
from sir_jax.data.builders.voices.sources import READERS, Recording
from sir_jax.data.media.synthesis import speaks

# They make synthesised captions, and no picture where there is none.
STAMPS_READERS = "sir_jax.data.builders.tux_paint_stamps.readers"
# Nobody says more letters a second: the recording says less than its text.
MOST_LETTERS = 30.0
# Shares of the texts of a language that are in 'val' and in 'test'.
VAL, TEST = 0.05, 0.05
# What no one speaks.
_NO_SPEECH = ("/silence/", "/ascending-2tone", "/descending-2tone", "/beep", "/tone")


def voices_layout(config: VoicesConfig) -> Layout:
    """Return the layout of a corpus of recordings."""
    return Layout(
        name="voices",
        configs={config.name: "recordings of people with their text"},
        archives=(),
        plan=lambda folder, name: plan_voices(folder, VoicesConfig.from_name(name)),
        expected={},
        rate=None,
        readers=STAMPS_READERS,
        tolerance=0.1,
    )


def plan_voices(folder: Path, config: VoicesConfig) -> Plan:
    """Plan a corpus from unpacked packages.

    A record is a text of a language with all of its recordings in a split. A recording without
    text is a record of its own.

    Args:
      folder: holds the packages.
      config: parameters of the corpus.

    Raises:
      UserError: a package is not there, or half unpacked.
    """
    recordings, wordless = [], collections.Counter()
    for recording in itertools.chain.from_iterable(READERS[part](folder) for part in config.parts):
        if any(part in recording.path for part in _NO_SPEECH):
            continue
        if recording.text and not fits(recording, folder):
            recording = dataclasses.replace(recording, text="")
        wordless[recording.speaker] += not recording.text
        recordings.append(recording)
    for speaker, count in sorted(wordless.items()):
        if count:
            print(f"{speaker}: {count:,} recordings have no text, or say less; kept without it")
    leader = joined((_key(r), [content(folder / r.path)]) for r in recordings)
    said: dict[tuple[str, str], list[PlannedCaption]] = {}
    for recording in recordings:
        key = _key(recording)
        split = split_of(recording.language, leader[key], config.hold_out)
        said.setdefault((split, key), []).append(_planned(recording))
    for caption in planned_texts(folder, config):
        key = f"{caption.language}: {caption.text}"
        if split_of(caption.language, leader.get(key, key), config.hold_out) == "train":
            said.setdefault(("train", key), []).append(caption)
    number, images = itertools.count(), []
    for image_id, ((split, key), group) in enumerate(sorted(said.items(), key=lambda e: e[0])):
        captions = tuple(dataclasses.replace(c, caption_id=next(number)) for c in group)
        images.append(PlannedImage(image_id, key, split, "", captions))
    return Plan(tuple(images))


def _key(recording: Recording) -> str:
    return f"{recording.language}: {recording.text or recording.path}"


def _planned(recording: Recording) -> PlannedCaption:
    path = recording.path
    words = (recording.text, recording.speaker, recording.language, HUMAN)
    return PlannedCaption(-1, path, path, *words)


def planned_texts(folder: Path, config: VoicesConfig) -> Iterator[PlannedCaption]:
    """Yield the names of stamps that eSpeak NG says besides, in any of its languages.

    Texts are drawn at random, and again by other voices when all have been drawn. Those of the
    validation and test split are among them, and those of languages whose people are held out.

    Args:
      folder: holds the packages.
      config: parameters of the corpus.
    """
    if not config.synthesised:
        return
    texts = {
        (language, text)
        for stamp in read_stamps(folder).stamps
        for language, text in stamp.texts.items()
        if text and speaks(ESPEAK, language, "train")
    }
    drawn = sorted(texts, key=lambda text: (number_of(*text), text))
    for take in range(config.synthesised):
        language, text = drawn[take % len(drawn)]
        yield planned_speech(-1, text, text, language, "train", take // len(drawn))


def fits(recording: Recording, folder: Path) -> bool:
    """Tell whether a recording is long enough to say its text; True of one that cannot be read."""
    try:
        seconds = soundfile.info(str(folder / recording.path)).duration
    # Whoever reads the recording itself will say what is wrong.
    except (soundfile.SoundFileError, OSError):
        return True
    return sum(map(str.isalpha, recording.text)) <= MOST_LETTERS * seconds


def split_of(language: str, key: str, hold_out: tuple[str, ...]) -> str:
    """Return the split of a record: that of a language held out is 'test', else a hash decides."""
    if is_of(language, hold_out):
        return "test"
    share = number_of(key.lower()) % 10_000 / 10_000
    return "val" if share < VAL else "test" if share < VAL + TEST else "train"
