"""A split in memory, and batches drawn from it."""

import dataclasses
import io
from itertools import islice

import numpy as np
import soundfile
from ml_collections import ConfigDict
from PIL import Image

from sir_jax.config.presets import base_config
from sir_jax.data.pipeline import train_batches

BUCKETS = (400, 800, 1_600)
INDEX = np.dtype(
    [("row", "i4"), ("slot", "i4"), ("samples", "i4"), ("image_id", "i8"), ("caption_id", "i8")]
)


@dataclasses.dataclass(frozen=True)
class Clip:
    audio: bytes
    samples: int
    caption_id: int


@dataclasses.dataclass(frozen=True)
class Record:
    image: bytes
    image_id: int
    captions: tuple[Clip, ...]


class MemorySplit:
    """The interface of `corpus.Split` over real FLAC and PNG bytes held in memory."""

    name = "train"
    trim = False

    def __init__(self, lengths: list[list[int]]):
        rng = np.random.default_rng(0)
        self._records, entries = [], []
        for row, clips in enumerate(lengths):
            captions = []
            for slot, samples in enumerate(clips):
                caption_id = 10 * row + slot
                sound = (rng.standard_normal(samples) * 3_000).astype(np.int16)
                captions.append(Clip(encode_sound(sound), samples, caption_id))
                entries.append((row, slot, samples, 700 + row, caption_id))
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            self._records.append(Record(encode_image(pixels), 700 + row, tuple(captions)))
        self.index = np.array(entries, INDEX)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Record:
        return self._records[row]

    def damage(self, row: int, **changes) -> None:
        self._records[row] = dataclasses.replace(self._records[row], **changes)


def encode_sound(sound: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # libsndfile cannot read back a FLAC file without samples.
    kind = "FLAC" if len(sound) else "WAV"
    soundfile.write(buffer, sound, 16_000, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def encode_image(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_config(**changes) -> ConfigDict:
    config = ConfigDict(
        {
            "batch_size": 4,
            "buckets": BUCKETS,
            "image_size": 16,
            "image_mean": (0.5, 0.4, 0.3),
            "image_std": (0.2, 0.3, 0.4),
            "image_fit": "crop",
            "crop_scale": (0.5, 1.0),
            "augment": base_config("tiny", "tiny").data.augment,
            "normalize_wave": True,
        }
    )
    config.update(changes)
    return config


def augmented(folder=None, **changes) -> ConfigDict:
    """Return a config in which everything that can happen to a pair happens to most."""
    augment = base_config("tiny", "tiny").data.augment
    for effect in ("speed", "reverb", "noise", "telephone", "gain"):
        augment[effect].probability = 0.8
    augment.reverb.t60 = (0.05, 0.1)
    augment.image.update(brightness=0.3, contrast=0.3, saturation=0.3, grey=0.2)
    if folder is not None:
        for name, samples in (("b.wav", 700), ("a.flac", 3_000)):
            sound = 0.1 * np.random.default_rng(samples).standard_normal(samples)
            soundfile.write(folder / name, sound, 16_000)
        augment.noise.folder = str(folder)
    return data_config(augment=augment, **changes)


def small_split() -> MemorySplit:
    """Nine images, 27 captions, of every bucket and beyond the last."""
    lengths = np.random.default_rng(5).integers(1, 2_400, (9, 3))
    return MemorySplit(lengths.tolist())


def draw(count: int, split=None, *, start: int = 0, config=None, threads: int = 0, **options):
    """Take `count` batches and close."""
    batches = train_batches(
        split or small_split(),
        config or data_config(),
        seed=options.pop("seed", 3),
        start=start,
        num_threads=threads,
        **options,
    )
    taken = [{k: np.array(v) for k, v in batch.items()} for batch in islice(batches, count)]
    batches.close()
    return taken


def assert_same(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def caption_ids(batches: list[dict]) -> list[int]:
    return np.concatenate([b["caption_ids"] for b in batches]).tolist()
