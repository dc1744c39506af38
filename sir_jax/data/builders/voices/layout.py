"""The layout of a corpus of recordings with their text and without pictures."""

import collections
import dataclasses
import hashlib
import itertools
from pathlib import Path

import numpy as np
import soundfile

from sir_jax.data.builders.recorded import Rules, read_recording
from sir_jax.data.builders.recordings import Layout, Plan, PlannedCaption, PlannedImage
from sir_jax.data.builders.voices.config import VoicesConfig, is_of
from sir_jax.data.builders.voices.sources import READERS, Recording
from sir_jax.errors import BadMedia

HUMAN = "human"
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
        readers=__name__,
        tolerance=0.1,
    )


def plan_voices(folder: Path, config: VoicesConfig) -> Plan:
    """Plan a corpus from unpacked packages.

    A record is a text of a language with all of its recordings in a split.

    Args:
      folder: holds the packages.
      config: parameters of the corpus.

    Raises:
      UserError: a package is not there, or half unpacked.
    """
    said: dict[tuple[str, str, str, str], list[Recording]] = {}
    wordless = collections.Counter()
    for recording in itertools.chain.from_iterable(READERS[part](folder) for part in config.parts):
        if any(part in recording.path for part in _NO_SPEECH):
            continue
        if not fits(recording, folder):
            recording = dataclasses.replace(recording, text="")
        # A recording without text is a record of its own.
        mark = "" if recording.text else recording.path
        wordless[recording.speaker] += bool(mark)
        split = split_of(recording.language, recording.text or mark, config.hold_out)
        key = (split, recording.language, recording.text, mark)
        said.setdefault(key, []).append(recording)
    for speaker, count in sorted(wordless.items()):
        if count:
            print(f"{speaker}: {count:,} recordings have no text, or say less; kept without it")
    number, images = itertools.count(), []
    for image_id, (key, group) in enumerate(sorted(said.items())):
        captions = tuple(
            PlannedCaption(next(number), r.path, r.path, r.text, r.speaker, r.language, HUMAN)
            for r in group
        )
        split, language, text, mark = key
        images.append(PlannedImage(image_id, f"{language}: {text or mark}", split, "", captions))
    return Plan(tuple(images))


def fits(recording: Recording, folder: Path) -> bool:
    """Tell whether a recording is long enough to say its text; True of one that cannot be read."""
    try:
        seconds = soundfile.info(str(folder / recording.path)).duration
    # Whoever reads the recording itself will say what is wrong.
    except (soundfile.SoundFileError, OSError):
        return True
    return sum(map(str.isalpha, recording.text)) <= MOST_LETTERS * seconds


def split_of(language: str, text: str, hold_out: tuple[str, ...]) -> str:
    """Return the split of a text: that of a language held out is 'test', else a hash decides."""
    if is_of(language, hold_out):
        return "test"
    digest = hashlib.blake2b(f"{language}\n{text.lower()}".encode(), digest_size=4).digest()
    share = int.from_bytes(digest) / 2**32
    return "val" if share < VAL else "test" if share < VAL + TEST else "train"


def read_sound(rules: Rules, caption: PlannedCaption) -> np.ndarray:
    """Return a recording; see `recorded.read_sound`.

    Raises:
      BadMedia: it cannot be used, or is silent.
    """
    wave = read_recording(rules.folder / caption.audio, rules, caption.audio)
    if not wave.any():
        raise BadMedia(f"{caption.audio}: digitally silent", "silent")
    return wave


def read_picture(rules: Rules, image: PlannedImage) -> bytes:
    """Return no bytes: there are no pictures here."""
    del rules, image
    return b""
