"""Frozen encoders' outputs on disk: one bfloat16 record a clip or a picture, by random access.

A store is a folder `MODALITY-KEY` with `manifest.json` and shards, which are ArrayRecord files of
the same number of rows each. A shard is there under its name only once it is whole. Within a shard
records lie by rising size, as they were encoded; where each row is follows from the sizes alone.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file, write_json

MANIFEST = "manifest.json"

# Shards are near this size, and at most so many: a reader holds each of them open.
SHARD_BYTES, MAX_SHARDS = 256 << 20, 256

# Group 1: a record is read alone. Uncompressed: zstd saves a fifth of bfloat16 features and reads
# them at half the speed.
_WRITER_OPTIONS = "group_size:1,uncompressed"

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which row lies where, and how large it is.

    Attributes:
      folder: of the store.
      sizes: int32 [n], vectors in each row's record, of each state: frames of a clip, tokens of a
        picture.
      states: encoder states in a record.
      width: of a vector.
      per_shard: rows of a shard; the last one has the rest.
    """

    folder: Path
    sizes: np.ndarray
    states: int
    width: int
    per_shard: int

    @property
    def shards(self) -> int:
        """Return the number of files."""
        return -(-len(self.sizes) // self.per_shard)

    def shard_path(self, shard: int) -> Path:
        """Return where a shard lies, or is to lie."""
        return self.folder / f"features-{shard:05d}-of-{self.shards:05d}.array_record"

    def missing(self) -> list[int]:
        """Return the shards that are not there."""
        return [shard for shard in range(self.shards) if not self.shard_path(shard).exists()]

    def shard_rows(self, shard: int) -> np.ndarray:
        """Return the rows of a shard in the order of its records."""
        first = shard * self.per_shard
        sizes = self.sizes[first : first + self.per_shard]
        return first + np.argsort(sizes, kind="stable")

    def row_bytes(self, rows: np.ndarray | slice = slice(None)) -> int:
        """Return the bytes of the records of some rows, of all without an argument."""
        vectors = int(self.sizes[rows].sum(dtype=np.int64))
        return vectors * self.states * self.width * BFLOAT16.itemsize


def rows_per_shard(sizes: np.ndarray, states: int, width: int, least: int) -> int:
    """Choose how many rows a shard of a new store has.

    Args:
      sizes: see `Layout`.
      states: likewise.
      width: likewise.
      least: rows that no shard goes below, so that a batch is not cut.
    """
    mean = Layout(Path(), sizes, states, width, 1).row_bytes() / max(len(sizes), 1)
    return max(int(SHARD_BYTES / max(mean, 1)), -(-len(sizes) // MAX_SHARDS), least)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a store's manifest, None where there is none.

    Raises:
      UserError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        manifest["identity"], int(manifest["rows_per_shard"])
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); remove the folder") from None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a store's manifest, the old one or the new one being there at any time."""
    write_json(folder / MANIFEST, manifest)


@contextlib.contextmanager
def shard_writer(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a shard that takes its name at the end, when every byte of it is on the disk.

    Args:
      path: of the shard.

    Yields:
      A function that appends a record, bfloat16 [states, size, width].
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    with whole_file(path, sync=True) as part:
        writer = ArrayRecordWriter(str(part), _WRITER_OPTIONS)
        try:
            yield lambda record: writer.write(record.astype(BFLOAT16, copy=False).tobytes())
        finally:
            writer.close()


class FeatureReader:
    """Random access to a store's records by row; picklable, and cheap to open in a worker."""

    def __init__(self, layout: Layout):
        """Open every shard.

        Args:
          layout: of the store, whose shards are all there.

        Raises:
          UserError: a shard is damaged, or the rows are not those of the layout.
        """
        self.layout = layout
        # Where each row's record is among all records.
        self._positions = np.empty(len(layout.sizes), np.int32)
        for shard in range(layout.shards):
            rows = layout.shard_rows(shard)
            self._positions[rows] = shard * layout.per_shard + np.arange(len(rows))
        self._source = _open_shards([layout.shard_path(k) for k in range(layout.shards)])
        if len(self._source) != len(layout.sizes):
            raise UserError(
                f"{layout.folder} holds {len(self._source)} records and its manifest says "
                f"{len(layout.sizes)}; remove the folder and featurize again"
            )

    def __getitem__(self, row: int) -> np.ndarray:
        """Return a row's record, bfloat16 [states, size, width], read-only.

        Raises:
          UserError: it is damaged.
        """
        layout = self.layout
        path = layout.shard_path(row // layout.per_shard)
        try:
            record = self._source[int(self._positions[row])]
        # What array_record raises where a checksum is wrong or a file went away.
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path}: row {row} cannot be read ({error}); {_AGAIN}") from None
        shape = (layout.states, int(layout.sizes[row]), layout.width)
        if len(record) != layout.row_bytes(slice(row, row + 1)):
            raise UserError(f"{path}: row {row} has {len(record)} bytes, not {shape}; {_AGAIN}")
        return np.frombuffer(record, BFLOAT16).reshape(shape)


_AGAIN = "remove the file and featurize again"


def _open_shards(paths: list[Path]):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        return ArrayRecordDataSource(list(map(str, paths)))
    except RuntimeError as error:
        for path in paths:
            try:
                ArrayRecordDataSource([str(path)])
            except RuntimeError as broken:
                raise UserError(f"{path} is damaged ({broken}); {_AGAIN}") from None
        raise UserError(f"{paths[0].parent} cannot be read ({error})") from None


@dataclasses.dataclass(frozen=True)
class Features:
    """What a training batch takes from stores in place of waveforms or pixels.

    Attributes:
      speech: a row is a caption of the split's index; None where speech is not stored.
      bucket_frames: samples of a length bucket -> frames of a batch.
      image: a row is a picture of the split, its last vector the pooled one; None likewise.
    """

    speech: FeatureReader | None = None
    bucket_frames: Mapping[int, int] = dataclasses.field(default_factory=dict)
    image: FeatureReader | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return which of speech and image are stored."""
        return tuple(name for name in ("speech", "image") if getattr(self, name) is not None)

    def read(self, captions: np.ndarray, pictures: np.ndarray, samples: int) -> dict:
        """Read the rows of a batch.

        Args:
          captions: int [B], rows of the split's index.
          pictures: int [B], rows of the split.
          samples: of the batch's length bucket.

        Returns:
          Of stored speech, `frames` int32 [B] and either `speech_tokens` bfloat16 [B, T, D] or, of
          several states, `speech_states` bfloat16 [B, L, T, D], zero past a clip's frames. Of
          stored images, `image_tokens` bfloat16 [B, P, D] and `image_pooled` bfloat16 [B, D].

        Raises:
          UserError: a record is damaged.
        """
        batch = {}
        if self.speech is not None:
            batch |= self._read_speech(captions, self.bucket_frames[samples])
        if self.image is not None:
            batch |= self._read_image(pictures)
        return batch

    def _read_speech(self, captions: np.ndarray, frames: int) -> dict:
        layout = self.speech.layout
        x = np.zeros((len(captions), layout.states, frames, layout.width), BFLOAT16)
        for out, row in enumerate(captions):
            record = self.speech[row]
            x[out, :, : record.shape[1]] = record
        named = {"speech_tokens": x[:, 0]} if layout.states == 1 else {"speech_states": x}
        return {**named, "frames": layout.sizes[captions].astype(np.int32)}

    def _read_image(self, pictures: np.ndarray) -> dict:
        layout = self.image.layout
        tokens = np.empty((len(pictures), int(layout.sizes[0]) - 1, layout.width), BFLOAT16)
        pooled = np.empty((len(pictures), layout.width), BFLOAT16)
        for out, row in enumerate(pictures):
            (record,) = self.image[row]
            tokens[out], pooled[out] = record[:-1], record[-1]
        return {"image_tokens": tokens, "image_pooled": pooled}
