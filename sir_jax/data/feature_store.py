"""The feature store: outputs of frozen encoders on disk, with random access.

There is one bfloat16 record per caption or image. A store is a folder `MODALITY-KEY` with
`manifest.json` and shards, which are ArrayRecord files with equal numbers of rows. A shard gets its
name only when it is complete. The records of a shard are sorted by size, the order in which they
were encoded, so the sizes alone tell the position of each row.
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

# The size that shards should have, and their largest number: a reader keeps all of them open.
SHARD_BYTES, MAX_SHARDS = 256 << 20, 256

# With groups of 1 a record is read alone. Compression by zstd would save a fifth of the size and
# halve the speed of reading.
_WRITER_OPTIONS = "group_size:1,uncompressed"

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shapes of a store's records and their positions in shards.

    Attributes:
      folder: folder of the store.
      sizes: number of vectors per state in each row's record, int32 [n]: the frames of a caption,
        or the tokens of an image.
      states: number of encoder states in a record.
      width: width of a vector.
      per_shard: number of rows in each shard but the last, which has the rest.
    """

    folder: Path
    sizes: np.ndarray
    states: int
    width: int
    per_shard: int

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return -(-len(self.sizes) // self.per_shard)

    def shard_path(self, shard: int) -> Path:
        """Return the path of a shard, whether or not it exists."""
        return self.folder / f"features-{shard:05d}-of-{self.shards:05d}.array_record"

    def missing(self) -> list[int]:
        """Return the numbers of the shards that do not exist."""
        return [shard for shard in range(self.shards) if not self.shard_path(shard).exists()]

    def shard_rows(self, shard: int) -> np.ndarray:
        """Return the row of each record of a shard."""
        first = shard * self.per_shard
        sizes = self.sizes[first : first + self.per_shard]
        return first + np.argsort(sizes, kind="stable")

    def row_bytes(self, rows: np.ndarray | slice = slice(None)) -> int:
        """Return the total size in bytes of the records of some rows; by default of all."""
        vectors = int(self.sizes[rows].sum(dtype=np.int64))
        return vectors * self.states * self.width * BFLOAT16.itemsize


def rows_per_shard(sizes: np.ndarray, states: int, width: int, least: int) -> int:
    """Choose the number of rows per shard of a new store.

    Args:
      sizes: number of vectors per state in each row's record, int32 [n].
      states: number of encoder states in a record.
      width: width of a vector.
      least: lower limit, so that shards hold at least one batch.
    """
    mean = Layout(Path(), sizes, states, width, 1).row_bytes() / max(len(sizes), 1)
    return max(int(SHARD_BYTES / max(mean, 1)), -(-len(sizes) // MAX_SHARDS), least)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a store's manifest; None if there is none.

    Raises:
      UserError: the manifest is damaged.
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
    """Write a store's manifest atomically."""
    write_json(folder / MANIFEST, manifest)


@contextlib.contextmanager
def shard_writer(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a shard under a temporary name and rename it once all its bytes are on disk.

    Args:
      path: path of the shard.

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
    """Random access to a store's records by row; picklable."""

    def __init__(self, layout: Layout):
        """Open all shards of a store.

        Args:
          layout: layout of a complete store.

        Raises:
          UserError: a shard is damaged, or the number of records is not that of the layout.
        """
        self.layout = layout
        # The position of each row's record among the records of all shards.
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
          UserError: the record is damaged.
        """
        layout = self.layout
        path = layout.shard_path(row // layout.per_shard)
        try:
            record = self._source[int(self._positions[row])]
        # array_record raises these for a wrong checksum and for a file that was removed.
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
    """Stored features that training batches hold in place of waveforms or pixels.

    Attributes:
      speech: reader with one row per entry of the split's index; None if speech is not stored.
      bucket_frames: number of frames in a batch, by the samples of its length bucket.
      image: reader with one row per image of the split, whose last vector is the pooled one; None
        if images are not stored.
    """

    speech: FeatureReader | None = None
    bucket_frames: Mapping[int, int] = dataclasses.field(default_factory=dict)
    image: FeatureReader | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the modalities that are stored."""
        return tuple(name for name in ("speech", "image") if getattr(self, name) is not None)

    def read(self, captions: np.ndarray, pictures: np.ndarray, samples: int) -> dict:
        """Read the rows of a batch.

        Args:
          captions: rows of the split's index, int [B].
          pictures: rows of the split, int [B].
          samples: length bucket of the batch.

        Returns:
          Arrays by name. For stored speech: `frames`, the number of valid frames, int32 [B]; and
          `speech_tokens` bfloat16 [B, T, D] or, if a record has more than one state,
          `speech_states` bfloat16 [B, states, T, D], both zero beyond the valid frames. For stored
          images: `image_tokens` bfloat16 [B, P, D] and `image_pooled` bfloat16 [B, D].

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
