"""A joint model of width 32, the production classes at toy size, and a split in memory."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image
from rerank_helpers import fill_stores, matching_model, scores_alone
from tiny_models import random_params, tiny_config

from sir_jax.models import build_model


@pytest.fixture(scope="session")
def tiny():
    """Return (cfg, model, params)."""
    cfg = tiny_config(
        **{"data.buckets": (1_600, 3_200), "data.batch_size": 4, "model.embed_width": 32}
    )
    model = build_model(cfg.model)
    return cfg, model, random_params(model)


class MemorySplit:
    """Random access like `corpus.Split`, over records in memory.

    A clip has 500 + 37 * its caption id samples.
    """

    name = "test"
    trim = False

    def __init__(self, captions_of):
        rng = np.random.default_rng(5)
        self.records, entries = [], []
        for row, (image_id, caption_ids) in enumerate(captions_of.items()):
            png = io.BytesIO()
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(png, "PNG")
            captions = []
            for slot, caption_id in enumerate(caption_ids):
                flac = io.BytesIO()
                samples = 500 + 37 * caption_id
                wave = np.random.default_rng(samples).normal(size=samples) * 0.1
                soundfile.write(flac, wave, 16_000, format="FLAC", subtype="PCM_16")
                captions.append(SimpleNamespace(audio=flac.getvalue(), caption_id=caption_id))
                entries.append((row, slot, samples, image_id, caption_id))
            self.records.append(
                SimpleNamespace(image=png.getvalue(), image_id=image_id, captions=tuple(captions))
            )
        fields = [
            ("row", "i4"),
            ("slot", "i4"),
            ("samples", "i4"),
            ("image_id", "i8"),
            ("caption_id", "i8"),
        ]
        self.index = np.sort(np.array(entries, fields), order="caption_id")

    def __len__(self):
        return len(self.records)

    def __getitem__(self, row):
        return self.records[row]


@pytest.fixture(scope="session")
def memory_split():
    """Return the class `MemorySplit`, made of {image id: caption ids}."""
    return MemorySplit


@pytest.fixture(scope="module")
def case(tiny, memory_split):
    """Return (config, model, params, split, scores of each pair alone).

    13 clips of two buckets, two of two windows; 7 images: one twice, one without a caption.
    """
    cfg, model, params = matching_model(tiny[0])
    split = memory_split(
        {30: (8, 2, 90), 10: (5,), 21: (), 40: (1, 9, 3, 70), 20: (), 50: (81, 4), 60: (6, 7, 60)}
    )
    split.records[2].image_id = 30
    return cfg, model, params, split, scores_alone(cfg, model, params, split)


@pytest.fixture(scope="module")
def stores(case):
    speech, images, z = fill_stores(case)
    with speech, images:
        yield speech, images, z
