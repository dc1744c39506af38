"""An endless stream of augmented clips of several corpora, in batches of one length bucket."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from sir_jax.config.specs import HubertSpec
from sir_jax.data.builders.recordings import HUMAN
from sir_jax.data.corpus import Split
from sir_jax.data.media.audio import SAMPLE_RATE, normalize_waveform
from sir_jax.data.media.augment import AugmentSpec, augment_with_times
from sir_jax.data.parallel import ordered_map
from sir_jax.data.pipeline import read_clip
from sir_jax.training.pretraining.phones import Alphabet
from sir_jax.training.pretraining.targets import Targets
from sir_jax.training.pretraining.teacher import STEP, WIDTH

# Of a group with n times the clips of another, n ** BALANCE times as many are drawn.
BALANCE = 0.7
# Most phones a token: CTC needs one token for each, and one between two that are the same.
_PHONES_PER_TOKEN = 0.8

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """A split with its targets."""

    split: Split
    targets: Targets


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The shapes of batches: all buckets hold about as many seconds.

    Attributes:
      samples: lengths in samples, ascending.
      seconds: of sound in a batch.
    """

    samples: tuple[int, ...] = (24_000, 40_000, 56_000, 80_000, 112_000)
    seconds: float = 120.0

    def of(self, length: int) -> int:
        """Return the number of the shortest bucket that a clip fits, or of the last one."""
        return min(int(np.searchsorted(self.samples, length)), len(self.samples) - 1)

    def rows(self, bucket: int) -> int:
        """Return the clips in a batch, a multiple of 4."""
        return max(4, int(self.seconds * SAMPLE_RATE / self.samples[bucket]) // 4 * 4)


def token_seconds(spec: HubertSpec, count: int) -> np.ndarray:
    """Return the middle of what each of the first `count` tokens is about, in seconds."""
    stride = int(np.prod(spec.conv_stride))
    return (stride * np.arange(count) + spec.min_samples / 2) / SAMPLE_RATE


def teacher_at(frames: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the teacher's frames.

    Args:
      frames: float32 [K, 96], frame k is about second k * STEP.
      seconds: [T]; NaN where the teacher has heard nothing.

    Returns:
      float32 [T, 96], and a bool [T] that is True where there is a target.
    """
    at = seconds / STEP
    valid = np.isfinite(at) & (at >= 0) & (at <= len(frames) - 1)
    at = np.where(valid, at, 0.0)
    low = np.minimum(at.astype(int), max(0, len(frames) - 2))
    high = np.minimum(low + 1, len(frames) - 1)
    share = (at - low).astype(np.float32)[:, None]
    return frames[low] * (1 - share) + frames[high] * share, valid


class Mixture:
    """Clips of several sources, drawn so that no group decides by its size alone.

    The people of each language are a group, and each synthesiser of each source: its languages have
    the same voices.

    Args:
      sources: the training splits.
      alphabet: phones of the targets.
      spec: the encoder's shape.
      buckets: lengths of batches. Clips longer than the last bucket are left out and counted.
      augment: what happens to clips.
      seed: of order and augmentation.

    Attributes:
      groups: for each group its number of clips.
      left_out: number of clips that are too long.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        alphabet: Alphabet,
        spec: HubertSpec,
        buckets: Buckets,
        augment: AugmentSpec,
        seed: int,
    ):
        self._sources, self._alphabet, self._spec = sources, alphabet, spec
        self._buckets, self._augment, self._seed = buckets, augment, seed
        members: dict[str, list[tuple[int, int]]] = {}
        self.left_out = 0
        for number, source in enumerate(sources):
            for clip, group in enumerate(source.targets.groups):
                if source.targets.samples[clip] <= buckets.samples[-1]:
                    name = _group(source, group)
                    members.setdefault(name, []).append((number, clip))
                else:
                    self.left_out += 1
        self._members = {group: np.array(members[group]) for group in sorted(members)}
        self.groups = {group: len(clips) for group, clips in self._members.items()}
        self._stride = int(np.prod(spec.conv_stride))

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield batches for ever; another `start` gives another stream.

        The fields are those of `speech.speech_loss`.
        """
        waiting: list[list[Batch]] = [[] for _ in self._buckets.samples]
        for clip in ordered_map(self._clip, self._draw(start), group=2):
            bucket = self._buckets.of(len(clip["wave"]))
            waiting[bucket].append(clip)
            if len(waiting[bucket]) == self._buckets.rows(bucket):
                yield self._batch(waiting[bucket], bucket)
                waiting[bucket] = []

    def _draw(self, start: int) -> Iterator[tuple[int, int, int]]:
        """Yield source, clip and the number of the draw; a group's clips come in turn."""
        rng = np.random.default_rng((self._seed, start))
        weights = np.array([len(clips) for clips in self._members.values()]) ** BALANCE
        groups = list(self._members.values())
        turns = [itertools.chain.from_iterable(_orders(len(clips), rng)) for clips in groups]
        for number in itertools.count():
            group = int(rng.choice(len(groups), p=weights / weights.sum()))
            source, clip = groups[group][next(turns[group])]
            yield int(source), int(clip), hash((start, number)) & 0x7FFFFFFF

    def _clip(self, drawn: tuple[int, int, int]) -> Batch:
        number, clip, draw = drawn
        source = self._sources[number]
        entry = source.split.index[clip]
        wave = read_clip(source.split, source.split[int(entry["row"])], entry)
        rng = np.random.default_rng((self._seed, number, clip, draw))
        wave, times = augment_with_times(wave, self._augment, rng, self._buckets.samples[-1])
        tokens = max(1, 1 + (len(wave) - self._spec.min_samples) // self._stride)
        seconds = times.source_seconds(token_seconds(self._spec, tokens))
        frames, heard = teacher_at(source.targets.teacher(clip), seconds)
        phones = self._alphabet.numbers(source.targets.phones[clip])
        if len(phones) > _PHONES_PER_TOKEN * tokens:
            phones = phones[:0]  # spoken too fast for CTC, which needs a token for each
        return {
            "wave": normalize_waveform(wave),
            "frames": frames,
            "heard": heard,
            "phones": phones,
        }

    def _batch(self, clips: Sequence[Batch], bucket: int) -> Batch:
        samples = self._buckets.samples[bucket]
        rows = len(clips)
        tokens = 1 + (samples - self._spec.min_samples) // self._stride
        longest = int(_PHONES_PER_TOKEN * tokens)
        batch = {
            "wave": np.zeros((rows, samples), np.float32),
            "lengths": np.zeros(rows, np.int32),
            "frames": np.zeros((rows, tokens, WIDTH), np.float32),
            "heard": np.zeros((rows, tokens), bool),
            "phones": np.zeros((rows, longest), np.int32),
            "no_phone": np.ones((rows, longest), np.float32),
        }
        for row, clip in enumerate(clips):
            batch["lengths"][row] = len(clip["wave"])
            for field in ("wave", "frames", "heard", "phones"):
                batch[field][row, : len(clip[field])] = clip[field]
            batch["no_phone"][row, : len(clip["phones"])] = 0.0
        return batch


def _group(source: Source, group: str) -> str:
    engine = group.partition(" ")[0]
    return group if engine == HUMAN else f"{engine} of {source.split.directory.parent.name}"


def _orders(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        yield rng.permutation(count)
