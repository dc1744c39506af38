"""Choose sizes by the amount of data and the machine's cores, each with its reason.

The speeds are those of the small encoders on one core of a quiet machine.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.media.synthesis import speaks

# Training recordings beyond which more voices teach little for what they take.
ENOUGH_CLIPS = 24_000
LEAST_VOICES, MOST_VOICES = 2, 16
# How often a picture should be seen; by experiments with the stamps.
EXPOSURES = 640
LEAST_STEPS, BATCH = 100, 128
# Each bucket is a program to compile; more than these save little padding.
SHARES = (0.4, 0.75, 0.98)
_ROUND, _SHORTEST, _LONGEST = 4_000, 16_000, 240_000
# Seconds of a core: to say a caption, by Piper, to encode a second of speech and what it is changed
# by, to learn from a pair of stored features.
SAY, SAY_SLOWLY, HEAR, LEARN = 0.04, 0.6, 0.03, 0.002
# Seconds in which Piper may say the test.
_PATIENCE = 120.0
# Of a core to compile a program.
COMPILE = 30.0
# FLAC of a caption of one and a half seconds, once as a part and once as a record.
BYTES_A_CLIP = 60_000


class Choice(NamedTuple):
    """A size, and why it is what it is."""

    name: str
    value: Any
    why: str


def choose_engines(
    captions: Mapping[str, int], cores: int, missing: Mapping[str, str]
) -> tuple[Choice, list[str]]:
    """Choose who speaks.

    Args:
      captions: how many there are, by language.
      cores: of the machine.
      missing: engines that are not installed, with a line on each.

    Returns:
      The choice, and a line for each engine that is not in it.
    """
    engines, reasons, lines = ["espeak"], ["eSpeak NG speaks every language"], []
    for engine in ("flite", "mbrola", "piper"):
        count = sum(number for code, number in captions.items() if speaks(engine, code))
        if not count:
            lines.append(f"not {engine}: it speaks none of {', '.join(sorted(captions))}")
            continue
        if engine in missing:
            lines.append(f"not {engine}: {missing[engine]}")
            continue
        seconds = count * SAY_SLOWLY / cores
        if engine == "piper" and seconds > _PATIENCE:
            lines.append(
                f"not piper: it would take {seconds / 60:.0f} min to say {count:,} captions"
            )
            continue
        engines.append(engine)
        reasons.append(f"{engine} says {count:,} of the captions")
    return Choice("engines", tuple(engines), "; ".join(reasons)), lines


def choose_voices(captions: int) -> Choice:
    """Choose how many voices say each caption in training.

    Args:
      captions: how many there are.
    """
    voices = min(MOST_VOICES, max(LEAST_VOICES, ENOUGH_CLIPS // max(captions, 1)))
    clips = f"{captions:,} captions make {captions * voices:,} recordings"
    if voices == MOST_VOICES:
        why = f"{clips}; more voices teach little"
    elif voices == LEAST_VOICES:
        why = f"{clips}; one voice alone would be learnt with its words"
    else:
        why = f"{clips}, about as many as are heard in training"
    return Choice("voices", voices, why)


def choose_batch(pictures: int) -> Choice:
    """Choose how many pairs make a step.

    Args:
      pictures: in training.
    """
    if pictures >= BATCH:
        return Choice(
            "batch_size", BATCH, f"of {pictures:,} pictures: each is told from {BATCH - 1} others"
        )
    size = pictures - pictures % 8 if pictures >= 8 else max(pictures, 2)
    return Choice("batch_size", size, f"there are {pictures} pictures, which differ within a step")


def choose_buckets(samples: np.ndarray, augment: AugmentSpec) -> Choice:
    """Choose the lengths that clips are padded to.

    Args:
      samples: of each clip of training, int [n].
      augment: adds silence to some of them.
    """
    rng = np.random.default_rng(0)
    silence = augment.draw_silence(len(samples), rng).sum(1) * SAMPLE_RATE
    lengths = samples + silence
    # What is searched by, and what the test hears, is to fit without being cut.
    wanted = [*map(float, np.quantile(lengths, SHARES)), float(samples.max())]
    rounded = sorted({min(max(_up(x), _SHORTEST), _LONGEST) for x in wanted})
    median = np.median(samples) / SAMPLE_RATE
    longest = samples.max() / SAMPLE_RATE
    added = "with the silence that is added, " if augment.silence else ""
    why = (
        f"clips last {median:.1f} s in the middle and {longest:.1f} s at most; {added}"
        f"{np.mean(lengths <= rounded[0]):.0%} fit the first"
    )
    return Choice("buckets", tuple(rounded), why)


def _up(samples: float) -> int:
    return math.ceil(samples / _ROUND) * _ROUND


def padded_seconds(samples: np.ndarray, buckets: Sequence[int], augment: AugmentSpec) -> float:
    """Return how long a training clip is on average once it is padded."""
    rng = np.random.default_rng(0)
    lengths = samples + augment.draw_silence(len(samples), rng).sum(1) * SAMPLE_RATE
    places = np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)
    return float(np.asarray(buckets)[places].mean()) / SAMPLE_RATE


def step_seconds(batch_size: int, cores: int) -> float:
    """Return about how long a step takes that reads stored features.

    Args:
      batch_size: pairs of the step.
      cores: of the machine.
    """
    return batch_size * LEARN / cores


def encode_seconds(clips: int, clip: float, cores: int) -> float:
    """Return about how long it takes to encode clips once.

    Args:
      clips: how many there are.
      clip: seconds of a padded one.
      cores: of the machine.
    """
    return clips * clip * HEAR / cores


def choose_steps(pictures: int, batch_size: int, step: float, minutes: float) -> Choice:
    """Choose how many steps training has.

    Args:
      pictures: in training.
      batch_size: pairs a step.
      step: seconds that one takes.
      minutes: that training may take.
    """
    wanted = max(LEAST_STEPS, math.ceil(EXPOSURES * pictures / batch_size))
    possible = max(LEAST_STEPS, int(minutes * 60 / step))
    if wanted <= possible:
        seen = wanted * batch_size / pictures
        return Choice("steps", wanted, f"each picture is seen {seen:.0f} times")
    seen = possible * batch_size / pictures
    too_few = minutes * 60 < LEAST_STEPS * step
    least = f", the least, for which {minutes:g} min are too few" if too_few else ""
    why = (
        f"{possible * step / 60:.0f} min at {step:.2f} s a step{least}, in which each picture is "
        f"seen {seen:.0f} times; {EXPOSURES} would be better: give more minutes"
    )
    return Choice("steps", possible, why)


def show(choice: Choice) -> str:
    """Return the line of a choice."""
    value = choice.value
    shown = f"{value:,}" if isinstance(value, int) else ", ".join(map(str, value))
    return f"{choice.name} = {shown}: {choice.why}"
