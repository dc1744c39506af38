"""Read recordings and pictures of any form in threads, in order, with a policy for bad items."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sir_jax.data.media.audio import Sound, load_sound
from sir_jax.data.media.image import load_image
from sir_jax.data.media.synthesis.said import Said
from sir_jax.data.parallel import ordered_map
from sir_jax.errors import BadMedia, UserError, first_few
from sir_jax.runtime.console import Progress

# A path or the bytes of a sound file; (samples [N] or [N, channels], rate in Hz); a dict as in
# transformers, {"array": samples, "sampling_rate": rate}, or as in datasets before decoding,
# {"bytes": .., "path": ..}; or an AudioDecoder of datasets or torchcodec. Samples may be a NumPy or
# JAX array or a tensor. Or a text that several voices say, of `sir_jax.say`.
Speech = str | os.PathLike | bytes | tuple[np.ndarray, int] | Mapping[str, Any] | Said
# A path or the bytes of a picture file; a PIL image; or uint8 [h, w], [h, w, 3] or [h, w, 4].
Picture = str | os.PathLike | bytes | Image.Image | np.ndarray

ERRORS = ("raise", "skip", "nan")


class Noted(NamedTuple):
    """An item that was read, and a line about it for the user; an empty line says nothing."""

    value: Any
    note: str


class QuietMedia(UserWarning):
    """Warn of items that can be read but show or say nothing, such as digital silence."""


class Reader:
    """Read items and note which could be read.

    Attributes:
      errors: one of `ERRORS`.
      positions: the positions of the items that could be read so far, ascending.
      failures: (position, message) of each item that could not be read.
      notes: (position, message) of each item that was read but of which something must be said,
        such as that it is digital silence.
    """

    def __init__(
        self,
        load: Callable[[int, Any], Any],
        errors: str,
        progress: bool,
        unit: str,
        group: int = 1,
    ):
        """Prepare to read.

        Args:
          load: is given a position and the item there, returns what it reads, or that as `Noted`;
            raises `UserError`.
          errors: one of `ERRORS`; 'skip' and 'nan' go on after a failure.
          progress: whether to report progress on stderr.
          unit: plural noun for the items in the progress report, such as 'clips'.
          group: items that a thread takes at a time; more than 1 is faster where items are small.

        Raises:
          UserError: `errors` is none of `ERRORS`.
        """
        if errors not in ERRORS:
            raise UserError(f"errors={errors!r} is none of {', '.join(ERRORS)}")
        self._load, self.errors, self._progress, self._unit = load, errors, progress, unit
        self._group = group
        self.positions: list[int] = []
        self.failures: list[tuple[int, str]] = []
        self.notes: list[tuple[int, str]] = []

    def __call__(self, items: Iterable) -> Iterator:
        """Yield the items that could be read, in order.

        Raises:
          UserError: an item cannot be read and the policy is 'raise'.
        """
        with Progress(known_length(items), self._unit, self._progress) as bar:
            for position, value, error in ordered_map(self._attempt, enumerate(items), self._group):
                bar.update()
                if error is None:
                    self.positions.append(position)
                    if isinstance(value, Noted):
                        if value.note:
                            self.notes.append((position, value.note))
                        value = value.value
                    yield value
                elif self.errors == "raise":
                    raise error
                else:
                    self.failures.append((position, str(error)))

    def _attempt(self, item: tuple[int, Any]) -> tuple[int, Any, UserError | None]:
        position, source = item
        try:
            return position, self._load(position, source), None
        except UserError as error:
            return position, None, error

    def say(self, notes: list[tuple[int, str]] | None) -> None:
        """Hand the notes over, or warn of them where nobody takes them.

        Args:
          notes: the list that takes them; None to warn.
        """
        if notes is not None:
            notes += self.notes
        elif self.notes:
            warnings.warn(
                f"{len(self.notes)} of {len(self.positions)} {self._unit} hold nothing to find: "
                f"{first_few([message for _, message in self.notes])}",
                QuietMedia,
                stacklevel=3,
            )

    def add_nan_rows(self, rows: np.ndarray) -> np.ndarray:
        """Insert a row of NaN for each failed item if the policy is 'nan'.

        Args:
          rows: [n, E], one row for each item that was read.

        Returns:
          Under the policy 'nan' one row for every item; under the other policies `rows`.
        """
        if self.errors != "nan" or not self.failures:
            return rows
        out = np.full((len(rows) + len(self.failures), rows.shape[1]), np.nan, rows.dtype)
        out[self.positions] = rows
        return out


def read_speech(position: int, source: Speech, most: float | None = None) -> Noted:
    """Read a recording as float32[N] at 16 kHz, with a note if nothing can be heard in it.

    A `Said` is read as the list of its waves, which the encoder averages.

    Args:
      position: its number in the list, for the message about an item that has no path.
      source: any form of `Speech`.
      most: seconds; a longer recording is refused as "too long". None for no limit.

    Raises:
      UserError: the recording cannot be read, holds no sample, or is an array without its rate.
    """
    if isinstance(source, Said):
        return Noted(source.waves, "")
    label, source = plain_speech(source, f"clip {position}")
    sound: Sound = load_sound(source, label, max_seconds=most)
    name = label or str(source)
    if not sound.wave.size:
        raise BadMedia(f"{name}: holds no sound (0 samples); record it again", "no samples")
    return Noted(sound.wave, f"{name}: {sound.warning}" if sound.warning else "")


def load_speech(position: int, source: Speech) -> np.ndarray | list[np.ndarray]:
    """Read a recording as `read_speech` does, without the note."""
    return read_speech(position, source).value


def plain_speech(source: Speech, label: str) -> tuple[str | None, Any]:
    """Return the name of a recording, None for that of its path, and it as `load_sound` takes it.

    Args:
      source: any form of `Speech` but `Said`.
      label: the name of one that has no path.

    Raises:
      UserError: it is in none of these forms.
    """
    if isinstance(source, Mapping):
        if source.get("array") is not None and "sampling_rate" in source:
            return label, (np.asarray(source["array"]), source["sampling_rate"])
        if source.get("bytes") is not None:
            return source.get("path") or label, source["bytes"]
        if source.get("path") is not None:
            return None, source["path"]
        raise UserError(
            f"{label}: a dict needs 'array' and 'sampling_rate', or 'bytes', or 'path'; it has "
            f"{', '.join(map(repr, source)) or 'nothing'}"
        )
    if hasattr(source, "get_all_samples"):
        try:
            samples = source.get_all_samples()
        except Exception as error:
            # torchcodec raises RuntimeError, and FFmpeg's reason is its first line.
            reason = str(error).partition("\n")[0]
            raise BadMedia(f"{label}: its {type(source).__name__} fails ({reason})") from error
        return label, (np.asarray(samples.data).T, samples.sample_rate)
    if isinstance(source, list) or hasattr(source, "__dlpack__"):
        raise UserError(f"{label}: an array does not say its rate; give (samples, rate in Hz)")
    if isinstance(source, tuple) and len(source) != 2:
        raise UserError(f"{label}: a tuple of {len(source)} is not (samples, rate in Hz)")
    return None if _is_path(source) else label, source


def load_picture(position: int, source: Picture) -> Image.Image:
    """Read a picture as upright RGB.

    Args:
      position: its number in the list, for the message about an item that has no path.
      source: any form of `Picture`.

    Raises:
      UserError: the picture cannot be read.
    """
    if hasattr(source, "__dlpack__"):
        source = np.asarray(source)  # a JAX array or a tensor
    return load_image(source, None if _is_path(source) else f"picture {position}")


def require_list(items: Iterable) -> Iterable:
    """Return `items` unless it is one item, whose letters, samples or rows would pass for items.

    An array of names is a list.

    Raises:
      TypeError: `items` is one recording or one picture.
    """
    if isinstance(items, np.ndarray) and items.dtype.kind in "OU" and items.ndim == 1:
        return items.tolist()
    if (
        isinstance(items, str | bytes | os.PathLike | Image.Image | Mapping | Said)
        or hasattr(items, "__dlpack__")
        or hasattr(items, "get_all_samples")
    ):
        raise TypeError(f"expected a list of items, got one {type(items).__name__}: write [item]")
    if isinstance(items, tuple) and len(items) == 2 and hasattr(items[0], "__dlpack__"):
        raise TypeError("expected a list of items, got one (samples, rate): write [item]")
    return items


def known_length(items: Iterable) -> int | None:
    """Return the number of items; None where only reading them would tell."""
    return len(items) if hasattr(items, "__len__") else None


def _is_path(source) -> bool:
    return isinstance(source, str | os.PathLike)
