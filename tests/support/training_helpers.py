"""A tiny real model's config and a tiny real corpus held in memory."""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from sir_jax.config.presets import base_config
from sir_jax.data.corpus import INDEX_DTYPE, Caption, Corpus, ImageRecord
from sir_jax.runtime.trees import map_with_path


def tiny_config(**fields):
    """Return a config of the production model at width 32; fields are given by dotted name."""
    c = base_config("tiny", "tiny")
    c.data.corpus = "spoken_scenes/in-memory"
    c.data.batch_size = 8
    c.data.buckets = (3_200, 6_400)
    c.data.image_size = 16
    # Few operations: compiling, not running, is what the tests wait for. The head alone has
    # dropout, whose random numbers are half of a program's operations.
    c.model.speech.update(
        width=32,
        layers=1,
        heads=2,
        mlp_width=64,
        conv_width=(8, 32),
        conv_kernel=(40, 8),
        conv_stride=(20, 8),
        pos_kernel=8,
        pos_groups=2,
        dropout=0.0,
    )
    c.model.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.model.head.update(layers=1, heads=2, mlp_width=64)
    c.model.fusion.update(layers=2, width=32, heads=2, mlp_width=64, dropout=0.0)
    c.model.embed_width = 16
    c.optim.update(learning_rate=1e-3, warmup_steps=2)
    c.train.update(steps=6, log_every=1, eval_every=0, checkpoint_every=0, num_threads=1)
    c.mesh.update(data=1, fsdp=1, tensor=1)
    c.update_from_flattened_dict(fields)
    return c


class MemorySplit:
    """The interface of `sir_jax.data.corpus.Split` over records made here."""

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


def filled(tree, seed: int = 0):
    """Return NumPy arrays of a tree's shapes: small random floats, as training leaves them."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path.endswith("temperature"):
            return np.full(leaf.shape, 0.07, leaf.dtype)
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if path.startswith("opt_state"):
            return np.abs(rng.normal(0.0, 1e-3, leaf.shape)).astype(leaf.dtype)
        one = 1.0 if path.endswith(("scale", "/g")) else 0.0
        return (one + rng.normal(0.0, 0.1, leaf.shape)).astype(leaf.dtype)

    return map_with_path(fill, tree)


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
