"""Vectors in a file: a matrix as safetensors, and beside it JSON that says what the rows are.

The JSON names its matrix and is written last, under its final name at once. So a process that is
killed leaves what was there before, or all of the new; never half. A matrix is read memory-mapped.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.pretrained.files import read_header, read_json, write_parts
from sir_jax.runtime.files import whole_file

VERSION = 1
SUFFIX = ".safetensors"
TENSOR = "vectors"
# Where the matrix begins in its file: XLA takes memory as it is only at such addresses.
_ALIGN = 64


def write_matrix(path: Path, parts: Iterable[np.ndarray], rows: int, width: int) -> None:
    """Write a matrix, piece by piece.

    Args:
      path: the file; replaced at once when all is written.
      parts: float32[n, width] each.
      rows: of all parts together.
      width: of a vector.

    Raises:
      ValueError: the parts are not of that many rows, that width, or float32.
    """

    def checked() -> Iterator[np.ndarray]:
        left = rows
        for part in parts:
            if part.dtype != np.float32 or part.ndim != 2 or part.shape[1] != width:
                raise ValueError(f"vectors are {part.dtype} {part.shape}, not float32 [n, {width}]")
            left -= len(part)
            yield part
        if left:
            raise ValueError(f"{rows - left} vectors came, not {rows}")

    shapes, dtype = {TENSOR: (rows, width)}, np.dtype(np.float32)
    with whole_file(path, sync=True) as part_path, part_path.open("wb") as file:
        write_parts(file, shapes, dtype, checked(), align=_ALIGN)


def read_matrix(path: Path, rows: int, width: int) -> np.ndarray:
    """Map a matrix into memory.

    Args:
      path: what `write_matrix` wrote.
      rows: that it must have.
      width: likewise.

    Returns:
      float32[rows, width], read-only.

    Raises:
      UserError: it is missing, damaged, truncated, or holds something else.
    """
    entries = read_header(path)
    if set(entries) != {TENSOR}:
        raise UserError(f"{path} holds {', '.join(sorted(entries)) or 'nothing'}, not {TENSOR}")
    entry = entries[TENSOR]
    if entry.dtype != "F32" or entry.shape != (rows, width):
        raise UserError(
            f"{path} holds vectors of {entry.dtype} {list(entry.shape)}, not F32 "
            f"{[rows, width]}; embed again"
        )
    if not rows:
        return np.zeros((0, width), np.float32)
    return np.memmap(path, np.float32, "r", entry.offset, (rows, width))


def write_head(path: Path, kind: str, content: dict) -> None:
    """Write the JSON; from then on what it names is what counts.

    Args:
      path: the file.
      kind: of file, for `read_head`.
      content: plain data.
    """
    with whole_file(path, sync=True) as part, part.open("w") as file:
        json.dump({"format": kind, "version": VERSION} | content, file, separators=(",", ":"))


def read_head(path: Path, kind: str) -> dict:
    """Read what `write_head` wrote.

    Raises:
      UserError: it is missing, damaged, of another kind, or of a version that this one cannot read.
    """
    content = read_json(path)
    if content.get("format") != kind:
        raise UserError(f"{path} is no {kind}: its format is {content.get('format')!r}")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {content.get('version')!r}, and this sir_jax reads {VERSION}; "
            "upgrade sir_jax or embed again"
        )
    return content
