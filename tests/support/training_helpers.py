"""A tiny real corpus held in memory, and batches of random contents."""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from sir_jax.data.corpus import INDEX_DTYPE, Caption, Corpus, ImageRecord


class MemorySplit:
    """The interface of `sir_jax.data.corpus.Split` over records made here."""

    trim = False

    def __init__(self, name: str, images: int, captions: int, seed: int):
        self.name = name
        rng = np.random.default_rng(seed)
        self._records, index = [], []
        for row in range(images):
            made = []
            for slot in range(captions):
                samples = int(rng.integers(1_500, 7_000))
                caption_id = 100 + row * captions + slot
                made.append(Caption(_flac(rng, samples), samples, caption_id, "", ""))
                index.append((row, slot, samples, 10 + row, caption_id))
            self._records.append(ImageRecord(_png(rng), 10 + row, tuple(made)))
        self.index = np.array(index, INDEX_DTYPE)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> ImageRecord:
        return self._records[row]


def memory_corpus(images: int = 24) -> Corpus:
    """Return a corpus with the splits train and val."""
    splits = {"train": MemorySplit("train", images, 2, 0), "val": MemorySplit("val", 6, 2, 1)}
    return Corpus("spoken_scenes/in-memory", Path("in-memory"), splits)


def _flac(rng, samples: int) -> bytes:
    wave = 0.3 * np.sin(np.arange(samples) * rng.uniform(0.05, 0.5))
    wave += 0.05 * rng.standard_normal(samples)
    out = io.BytesIO()
    soundfile.write(out, (wave * 32_767).astype(np.int16), 16_000, format="FLAC")
    return out.getvalue()


def _png(rng) -> bytes:
    pixels = np.broadcast_to(rng.integers(0, 256, (1, 1, 3)), (16, 16, 3)).astype(np.uint8).copy()
    pixels[4:12, 4:12] = rng.integers(0, 256, 3)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def synthetic_batch(cfg, seed: int = 0, samples: int | None = None) -> dict[str, np.ndarray]:
    """Return the step's fields of a batch with random contents."""
    rng = np.random.default_rng(seed)
    b, n, size = cfg.data.batch_size, samples or cfg.data.buckets[0], cfg.data.image_size
    return {
        "wave": rng.standard_normal((b, n)).astype(np.float32),
        "lengths": rng.integers(n // 2, n + 1, b).astype(np.int32),
        "pixels": rng.standard_normal((b, size, size, 3)).astype(np.float32),
        "image_ids": (np.arange(b) // 2).astype(np.int32),
    }
