"""Evaluate a split in folds of the same number of images, as COCO's 1k protocol does.

Images are taken in their publisher's order, which is that of the lowest caption id of each image.
The last images are left out if they do not fill a fold.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from sir_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some images of a split with all their captions, with the interface of `data.corpus.Split`.

    Attributes:
      split: the whole split.
      rows: int[n], the images of the subset as rows of the split, in their new order.
    """

    split: object
    rows: np.ndarray

    @property
    def name(self) -> str:
        """Return the split's name."""
        return self.split.name

    @property
    def index(self) -> np.ndarray:
        """Return the index entries of the captions; `row` is the row in the subset."""
        whole = self.split.index
        new_row = np.full(len(self.split), -1)
        new_row[self.rows] = np.arange(len(self.rows))
        index = whole[new_row[whole["row"]] >= 0].copy()
        index["row"] = new_row[index["row"]]
        return index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        return self.split[int(self.rows[row])]


def folds_of(split, images: int) -> list[Subset]:
    """Cut a split into folds.

    Args:
      split: a `data.corpus.Split`.
      images: number of images in a fold.

    Returns:
      floor(n / images) folds.

    Raises:
      UserError: the split has fewer images.
    """
    if len(split) < images:
        raise UserError(
            f"split {split.name!r} has {len(split)} images, not the {images} of one fold; "
            "choose smaller folds"
        )
    first = np.full(len(split), np.iinfo(np.int64).max)
    np.minimum.at(first, split.index["row"], split.index["caption_id"])
    order = np.argsort(first, kind="stable")
    return [Subset(split, order[a : a + images]) for a in range(0, len(split) - images + 1, images)]


def mean_flat(flats: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average the metrics of folds.

    Args:
      flats: `Metrics.flat()` or `Reranked.flat()` of each fold.

    Returns:
      The mean of each number over the folds; of captions per image the minimum and the maximum.
      For each mean recall NAME also `std_NAME`, its sample standard deviation (0 for one fold).
    """
    values = {name: np.array([flat[name] for flat in flats], float) for name in flats[0]}
    means = {name: float(x.mean()) for name, x in values.items()}
    for name, x in values.items():
        if name.endswith("captions_per_image_min"):
            means[name] = float(x.min())
        elif name.endswith("captions_per_image_max"):
            means[name] = float(x.max())
    spread = {
        f"std_{name}": float(x.std(ddof=1)) if len(x) > 1 else 0.0
        for name, x in values.items()
        if "mean_r" in name
    }
    return means | spread
