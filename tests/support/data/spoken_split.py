"""A split of four images with two spoken captions each, as real FLAC and PNG bytes."""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from sir_jax.data.corpus import INDEX_DTYPE, Caption, ImageRecord

TEXTS = ("red circle", "blue square", "red square", "blue circle")


class SpokenSplit:
    """What `sir_jax.data.corpus.Split` offers, in memory; the sound is noise."""

    name = "train"
    trim = False

    def __init__(self, folder, samples=3_000, engine="espeak", language="en"):
        self.directory = Path(folder) / "corpus" / "config" / "1.0.0"
        rng = np.random.default_rng(0)
        self.records = []
        for i, text in enumerate(TEXTS):
            png, captions = io.BytesIO(), []
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(png, "PNG")
            for j in range(2):
                flac, count = io.BytesIO(), samples + 100 * j
                wave = rng.integers(-9000, 9000, count).astype(np.int16)
                soundfile.write(flac, wave, 16_000, format="FLAC")
                spoken = flac.getvalue(), count, 2 * i + j, text, "someone", ""
                captions.append(Caption(*spoken, language, engine))
            self.records.append(ImageRecord(png.getvalue(), 10 + i, tuple(captions)))
        self.index = np.array(
            [
                (row, slot, c.samples, r.image_id, c.caption_id)
                for row, r in enumerate(self.records)
                for slot, c in enumerate(r.captions)
            ],
            INDEX_DTYPE,
        )

    def __len__(self):
        return len(self.records)

    def __getitem__(self, row):
        return self.records[row]
