"""Rank a split in folds of equally many images, as COCO's 1k protocol does, and average them.

Images are taken in the order in which their publisher lists them, that is of their first caption's
id; the first fold holds the first ones. Images that do not fill a fold are left out and counted.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from sir_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some images of a split with all their captions; stands in for a `data.corpus.Split`.

    Attributes:
      split: the whole one.
      rows: int[n], the images, in their new order.
    """

    split: object
    rows: np.ndarray

    @property
    def name(self) -> str:
        """Return the split's name."""
        return self.split.name

    @property
    def index(self) -> np.ndarray:
        """Return the entries of these images' captions, their rows counted anew."""
        whole = self.split.index
        place = np.full(len(self.split), -1)
        place[self.rows] = np.arange(len(self.rows))
        index = whole[place[whole["row"]] >= 0].copy()
        index["row"] = place[index["row"]]
        return index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        return self.split[int(self.rows[row])]


def folds_of(split, images: int) -> list[Subset]:
    """Cut a split into folds.

    Args:
      split: a `data.corpus.Split`.
      images: of a fold.

    Returns:
      floor(n / images) of them.

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
    """Average the numbers of folds; the fewest and the most captions an image stay extremes.

    Args:
      flats: `Metrics.flat()` or `Reranked.flat()` of each fold.

    Returns:
      The same names, and `std_NAME` of each mean recall over the folds (n - 1; 0 for one fold).
    """
    values = {name: np.array([flat[name] for flat in flats], float) for name in flats[0]}
    found = {name: float(x.mean()) for name, x in values.items()}
    for name, x in values.items():
        if name.endswith("captions_per_image_min"):
            found[name] = float(x.min())
        elif name.endswith("captions_per_image_max"):
            found[name] = float(x.max())
    spread = {
        f"std_{name}": float(x.std(ddof=1)) if len(x) > 1 else 0.0
        for name, x in values.items()
        if "mean_r" in name
    }
    return found | spread
