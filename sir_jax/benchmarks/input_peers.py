"""Two common ways to make batches: librosa and Pillow in a loop, and a PyTorch `DataLoader`."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from sir_jax.benchmarks.raw_files import Pair
from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.image import ImageSpec

Item = tuple[np.ndarray, np.ndarray]


class Augment(NamedTuple):
    """Ranges of the augmentations: share of the area, signal-to-noise ratio in dB, gain in dB."""

    crop: tuple[float, float]
    snr: tuple[float, float]
    gain: tuple[float, float]


def librosa_wave(path) -> np.ndarray:
    """Read a clip at 16 kHz with librosa: float32 [N]."""
    import librosa

    return librosa.load(path, sr=SAMPLE_RATE)[0]


def soundfile_wave(path) -> np.ndarray:
    """Read a clip at 16 kHz with soundfile and soxr: float32 [N]."""
    import soundfile
    import soxr

    wave, rate = soundfile.read(path, dtype="float32")
    if wave.ndim > 1:
        wave = wave.mean(axis=1)
    if rate != SAMPLE_RATE:
        # The length that librosa gives; soxr's own may differ by one.
        length = math.ceil(len(wave) * (SAMPLE_RATE / rate))
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ")[:length]
        wave = np.pad(wave, (0, length - len(wave)))
    return wave


def noisy_wave(wave: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Add white noise at a random ratio and apply a random gain: float32 [N]."""
    noise = rng.standard_normal(len(wave))
    ratio = 10 ** (rng.uniform(*augment.snr) / 10)
    noise *= np.sqrt(np.mean(wave.astype(np.float64) ** 2) / np.mean(noise**2) / ratio)
    return (wave + noise).astype(np.float32) * np.float32(10 ** (rng.uniform(*augment.gain) / 20))


def normalized(wave: np.ndarray) -> np.ndarray:
    """Return a waveform of mean 0 and variance 1."""
    return (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)


def pillow_pixels(path, spec: ImageSpec, scale: tuple[float, float], rng) -> np.ndarray:
    """Read a picture, cropped at random unless `scale` is (1, 1): float32 [h, w, 3]."""
    image = Image.open(path).convert("RGB")
    box = _random_box(image.size, scale, rng) if scale != (1.0, 1.0) else None
    if box is not None:
        image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
    else:
        ratio = spec.size / min(image.size)
        width, height = (max(spec.size, int(side * ratio + 1e-6)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - spec.size) // 2, (height - spec.size) // 2
        image = image.crop((left, top, left + spec.size, top + spec.size))
    pixels = np.asarray(image, np.float32)
    pixels /= 255
    pixels -= np.asarray(spec.mean, np.float32)
    pixels /= np.asarray(spec.std, np.float32)
    return pixels


def _random_box(size, scale, rng) -> tuple[float, ...] | None:
    """Draw a crop as torchvision's RandomResizedCrop does; None if ten draws do not fit."""
    for _ in range(10):
        area = size[0] * size[1] * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if width <= size[0] and height <= size[1]:
            left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
            return left, top, min(left + width, size[0]), min(top + height, size[1])
    return None


class PairDataset:
    """A map-style dataset of waveforms and pixels for `torch.utils.data`.

    Args:
      pairs: the raw files.
      spec: specification of the pictures.
      augment: the augmentations of clips and pictures; None for none.
      read_wave: function from a path to a waveform, float32 [N].
      longest: most samples of a clip; from a longer one a random part is taken.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        spec: ImageSpec,
        augment: Augment | None,
        read_wave: Callable,
        longest: int,
    ):
        self._pairs, self._spec, self._augment = pairs, spec, augment
        self._read_wave, self._longest = read_wave, longest
        self._rng = np.random.default_rng()

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Item:
        pair = self._pairs[number]
        wave, augment = self._read_wave(pair.audio), self._augment
        if augment is not None:
            wave = noisy_wave(wave, augment, self._rng)
        if len(wave) > self._longest:
            first = int(self._rng.integers(len(wave) - self._longest + 1))
            wave = wave[first : first + self._longest]
        crop = augment.crop if augment is not None else (1.0, 1.0)
        return normalized(wave), pillow_pixels(pair.image, self._spec, crop, self._rng)


def pad(items: list[Item]) -> dict[str, np.ndarray]:
    """Collate items into a batch that is padded to its longest clip."""
    lengths = np.array([len(wave) for wave, _ in items], np.int32)
    waves = np.zeros((len(items), lengths.max()), np.float32)
    for row, (wave, _) in zip(waves, items, strict=True):
        row[: len(wave)] = wave
    return {"wave": waves, "lengths": lengths, "pixels": np.stack([p for _, p in items])}


def pad_tensors(items: list[Item]) -> dict:
    """Collate items into tensors, which a `DataLoader` passes on through shared memory."""
    import torch

    return {name: torch.from_numpy(array) for name, array in pad(items).items()}


class _Endless:
    """An endless stream of batches of indices in random order."""

    def __init__(self, count: int, batch: int):
        self._count, self._batch = count, batch

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in itertools.count():
            order = np.random.default_rng(epoch).permutation(self._count).tolist()
            for first in range(0, self._count - self._batch + 1, self._batch):
                yield order[first : first + self._batch]


def loop_batches(dataset: PairDataset, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches that are made in this process, item by item."""
    for numbers in _Endless(len(dataset), batch):
        yield pad([dataset[number] for number in numbers])


def loader_batches(dataset: PairDataset, batch: int, workers: int) -> Iterator[dict]:
    """Yield batches of a `DataLoader` with worker processes."""
    import torch

    # "spawn", because forked workers would inherit locks of this process's threads.
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=_Endless(len(dataset), batch),
        num_workers=workers,
        collate_fn=pad_tensors,
        multiprocessing_context="spawn",
    )
    return iter(loader)
