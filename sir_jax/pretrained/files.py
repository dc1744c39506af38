"""The safetensors format, read and written a tensor at a time, without PyTorch and unmapped.

Mapped pages count as the process' memory, so a file is read by offsets. The format:
https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from sir_jax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Who wrote a file, in its header; `transformers` wants the "format".
METADATA = {"format": "pt", "writer": "sir_jax"}

# What weights may be stored as; a tensor of another kind may be in a file, to be dropped.
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_OTHER_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
# The format's own limit.
_MAX_HEADER = 100_000_000


class Entry(NamedTuple):
    """Where one tensor lies in its file.

    Attributes:
      dtype: the format's name for it, such as 'BF16'.
      shape: of the tensor.
      file: its path.
      offset: of its first byte.
      size: in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int


class Tensors(NamedTuple):
    """A checkpoint's tensors: their shapes at hand, their values in the files.

    Attributes:
      shapes: by name.
      read: returns one tensor by name, a new array.
      files: that they lie in.
      bytes: of all tensors together.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    files: list[Path]
    bytes: int


def open_tensors(folder: Path) -> Tensors:
    """Open `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

    Args:
      folder: the checkpoint's directory, which has one or the other.

    Raises:
      UserError: on a damaged or truncated file, a missing shard, and shards that differ from the
        index; naming files and tensors.
    """
    if (folder / SINGLE).is_file():
        entries, files = read_header(folder / SINGLE), [folder / SINGLE]
    else:
        entries, files = _read_shards(folder / INDEX)
    return Tensors(
        {name: entry.shape for name, entry in entries.items()},
        lambda name: read_tensor(name, entries[name]),
        files,
        sum(entry.size for entry in entries.values()),
    )


def read_json(path: Path) -> dict:
    """Read a JSON file that holds a dict.

    Raises:
      UserError: naming the file, where it cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; get the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dict; get the file again")
    return content


def read_index(path: Path) -> dict[str, list[str]]:
    """Read the index of a sharded checkpoint: shard -> names of its tensors.

    Raises:
      UserError: naming what is damaged, or every shard that is missing.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path} has no weight_map; get the file again")
    shards: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        # A name with a folder in it could point anywhere.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise UserError(f"{path} lists {name} in {shard!r}, which is no file name beside it")
        shards.setdefault(shard, []).append(name)
    missing = [shard for shard in sorted(shards) if not (path.parent / shard).is_file()]
    if missing:
        raise UserError(f"{path.parent} lacks {', '.join(missing)}, listed in {path.name}; get it")
    return dict(sorted(shards.items()))


def check_shard(index: Path, shard: str, promised: list[str], found) -> None:
    """Refuse a shard whose tensors are not those that the index lists for it.

    Raises:
      UserError: naming the tensors.
    """
    lacks, extra = sorted({*promised} - {*found}), sorted({*found} - {*promised})
    if lacks or extra:
        problems = [f"lacks {name}, listed in {index.name}" for name in lacks]
        problems += [f"holds {name}, not listed for it in {index.name}" for name in extra]
        raise UserError(f"{index.parent / shard} " + "; ".join(problems) + "; get both again")


def _read_shards(index: Path) -> tuple[dict[str, Entry], list[Path]]:
    entries: dict[str, Entry] = {}
    files = []
    for shard, promised in read_index(index).items():
        found = read_header(index.parent / shard)
        check_shard(index, shard, promised, found)
        entries |= found
        files.append(index.parent / shard)
    return entries, files


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a file's writer noted in its header.

    Raises:
      UserError: where the header is damaged.
    """
    return _parse_header(path)[0].get("__metadata__", {})


def read_header(path: Path) -> dict[str, Entry]:
    """Read where every tensor of a file lies.

    Raises:
      UserError: where the header is damaged, or the file is shorter or longer than it says;
        naming the tensors that are cut off.
    """
    header, start, length = _parse_header(path)
    entries = {}
    for name, fields in header.items():
        if name != "__metadata__":
            entries[name] = _entry(path, name, fields, start)
    end = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
        if entry.offset != end:
            raise _damaged(path, f"tensor {name} does not begin where the one before it ends")
        end += entry.size
    beyond = sorted(name for name, entry in entries.items() if entry.offset + entry.size > length)
    if beyond:
        raise UserError(
            f"{path} is truncated: {length:,} bytes of {end:,}; cut off are "
            f"{', '.join(beyond)}; get the file again"
        )
    if length != end:
        raise _damaged(path, f"{length - end:,} bytes follow the last tensor")
    return entries


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}; get the file again")


def _parse_header(path: Path) -> tuple[dict, int, int]:
    """Return the header, the offset of the first tensor and the file's length."""
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            size = int.from_bytes(file.read(8), "little")
            if length < 8 or not 2 <= size <= min(length - 8, _MAX_HEADER):
                raise _damaged(path, f"its header of {size:,} bytes does not fit in {length:,}")
            header = json.loads(file.read(size))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no dict")
    return header, 8 + size, length


def _entry(path: Path, name: str, fields, start: int) -> Entry:
    try:
        dtype, shape = fields["dtype"], tuple(fields["shape"])
        begin, end = fields["data_offsets"]
        good = all(isinstance(x, int) and x >= 0 for x in (*shape, begin, end)) and begin <= end
        itemsize = DTYPES[dtype].itemsize if dtype in DTYPES else _OTHER_BYTES.get(dtype)
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        raise _damaged(path, f"its header's entry of tensor {name} is {json.dumps(fields)}")
    if itemsize is not None and end - begin != math.prod(shape) * itemsize:
        raise _damaged(path, f"tensor {name} of {dtype} {list(shape)} has {end - begin:,} bytes")
    return Entry(dtype, shape, path, start + begin, end - begin)


def read_tensor(name: str, entry: Entry) -> np.ndarray:
    """Read one tensor into memory of its own.

    Raises:
      UserError: where it is not float32, float16 or bfloat16, or the file cannot be read.
    """
    if entry.dtype not in DTYPES:
        raise UserError(
            f"tensor {name} of {entry.file} is {entry.dtype}; read are {', '.join(DTYPES)}"
        )
    value = np.empty(entry.shape, DTYPES[entry.dtype])
    left = memoryview(value.reshape(-1).view(np.uint8))
    try:
        with entry.file.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            # Linux reads at most 2 GB at once.
            while left and (count := file.readinto(left)):
                left = left[count:]
    except OSError as error:
        raise UserError(f"{entry.file} cannot be read: {error.strerror}") from error
    if left:
        raise UserError(f"{entry.file} lost tensor {name} while it was read; get the file again")
    return value


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    dtype: str | np.dtype | type,
) -> None:
    """Write a safetensors file, asking for one tensor at a time.

    Args:
      path: the file.
      shapes: of every tensor, by name.
      read: returns one tensor by name.
      dtype: float32, float16 or bfloat16, of every tensor in the file.

    Raises:
      UserError: where a value does not fit in the dtype.
      ValueError: where a tensor has another shape than was said.
    """
    dtype = np.dtype(dtype)
    shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}

    def values() -> Iterator[np.ndarray]:
        for name, shape in shapes.items():
            value = _cast(name, read(name), dtype)
            if value.shape != shape:
                raise ValueError(f"tensor {name} has shape {value.shape}, not {shape}")
            yield value

    with path.open("wb") as file:
        write_parts(file, shapes, dtype, values(), METADATA)


def write_parts(
    file: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    parts: Iterable[np.ndarray],
    metadata: Mapping[str, str] | None = None,
    align: int = 8,
) -> None:
    """Write what a safetensors file holds, from parts that need not be whole tensors.

    Args:
      file: open for writing in binary.
      shapes: of every tensor by name, in the order in which they lie in the file.
      dtype: float32, float16 or bfloat16, of every tensor.
      parts: arrays of that type; one after the other, they are the tensors' values.
      metadata: of the header.
      align: the first tensor begins at a multiple of so many bytes.
    """
    code = next(code for code, kind in DTYPES.items() if kind == dtype)
    header: dict = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = dict(dtype=code, shape=list(shape), data_offsets=[begin, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    file.write(len(text).to_bytes(8, "little") + text)
    for part in parts:
        file.write(memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8)))


def _cast(name: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.asarray(value, dtype, order="C")
    if cast.dtype != value.dtype and np.isfinite(value).all() and not np.isfinite(cast).all():
        raise UserError(
            f"tensor {name} has the value {np.abs(value).max():g}, too large for {dtype}; "
            "choose bfloat16 or float32"
        )
    return cast
