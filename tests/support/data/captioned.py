"""Folders of small pictures, for corpora of spoken captions."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Return a picture of blots; each number gives another one."""
    blots = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


def write_pictures(folder: Path, names: list[str]) -> Path:
    """Write a picture for each name; return the folder."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return folder
