"""What a person hands over, one by one: read in threads, in order, bad ones by a stated policy."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.data.parallel import ordered_map
from sir_jax.errors import UserError
from sir_jax.runtime.progress import Progress

# str | Path | bytes of a sound file, (samples [N] or [N, channels], samples per second), or
# transformers' {"array": samples, "sampling_rate": rate}
Speech = str | os.PathLike | bytes | tuple[np.ndarray, int] | Mapping[str, Any]
# str | Path | bytes of a picture file, a PIL image, or uint8 [h, w], [h, w, 3] or [h, w, 4]
Picture = str | os.PathLike | bytes | Image.Image | np.ndarray

ERRORS = ("raise", "skip", "nan")


class Reader:
    """Read items and keep account of which could be read.

    Attributes:
      read: positions of the items that could be read so far, rising.
      failures: (position, message) of those that could not.
    """

    def __init__(
        self,
        load: Callable[[int, Any], Any],
        errors: str,
        progress: bool,
        what: str,
        group: int = 1,
    ):
        """Prepare to read.

        Args:
          load: reads the item at a position; raises `UserError`.
          errors: of `ERRORS`; all but 'raise' go on after a failure.
          progress: whether to say on stderr how far it is.
          what: the items are.
          group: see `data.parallel.ordered_map`.

        Raises:
          UserError: an unknown policy.
        """
        if errors not in ERRORS:
            raise UserError(f"errors={errors!r} is none of {', '.join(ERRORS)}")
        self._load, self._errors, self._progress, self._what = load, errors, progress, what
        self._group = group
        self.read: list[int] = []
        self.failures: list[tuple[int, str]] = []

    def __call__(self, items: Iterable) -> Iterator:
        """Yield what could be read, in order.

        Raises:
          UserError: an item cannot be read and the policy is 'raise'.
        """
        with Progress(count_of(items), self._what, self._progress) as bar:
            for place, value, error in ordered_map(self._attempt, enumerate(items), self._group):
                bar.update()
                if error is None:
                    self.read.append(place)
                    yield value
                elif self._errors == "raise":
                    raise error
                else:
                    self.failures.append((place, str(error)))

    def _attempt(self, item: tuple[int, Any]) -> tuple[int, Any, UserError | None]:
        place, source = item
        try:
            return place, self._load(place, source), None
        except UserError as error:
            return place, None, error

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Put the vectors of what was read where they belong.

        Args:
          rows: [n, E], one for each item that was read.

        Returns:
          `rows`; under the policy 'nan' one row for every item, NaN where it could not be read.
        """
        if self._errors != "nan" or not self.failures:
            return rows
        out = np.full((len(rows) + len(self.failures), rows.shape[1]), np.nan, rows.dtype)
        out[self.read] = rows
        return out


def load_speech(place: int, source: Speech) -> np.ndarray:
    """Read a recording as float32[N] at 16 kHz.

    Args:
      place: its position, for the message about an item that has no path.
      source: see `Speech`.

    Raises:
      UserError: it cannot be read; an array comes without its rate.
    """
    label = None if _is_path(source) else f"clip {place}"
    if isinstance(source, Mapping):
        if "array" not in source or "sampling_rate" not in source:
            raise UserError(f"{label}: a dict needs 'array' and 'sampling_rate'")
        source = (np.asarray(source["array"]), source["sampling_rate"])
    if isinstance(source, np.ndarray | list):
        raise UserError(f"{label}: an array does not say its rate; give (samples, rate in Hz)")
    if isinstance(source, tuple) and len(source) != 2:
        raise UserError(f"{label}: a tuple of {len(source)} is not (samples, rate in Hz)")
    return load_audio(source, label)


def load_picture(place: int, source: Picture) -> Image.Image:
    """Read a picture as upright RGB.

    Args:
      place: its position, for the message about an item that has no path.
      source: see `Picture`.

    Raises:
      UserError: it cannot be read.
    """
    return load_image(source, None if _is_path(source) else f"picture {place}")


def several(items: Iterable) -> Iterable:
    """Return items as they are.

    Raises:
      TypeError: it is one item, whose letters, samples or rows would be taken for items.
    """
    if isinstance(items, str | bytes | os.PathLike | Image.Image | np.ndarray | Mapping):
        raise TypeError(f"expected a list of items, got one {type(items).__name__}: write [item]")
    if isinstance(items, tuple) and len(items) == 2 and isinstance(items[0], np.ndarray):
        raise TypeError("expected a list of items, got one (samples, rate): write [item]")
    return items


def count_of(items: Iterable) -> int | None:
    """Return how many items there are; None where only reading them would tell."""
    return len(items) if hasattr(items, "__len__") else None


def _is_path(source) -> bool:
    return isinstance(source, str | os.PathLike)
