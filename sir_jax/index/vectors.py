"""Vectors in a file: a matrix as safetensors, and beside it JSON that says what the rows are.

The JSON names its matrix and is written last, under its final name at once. So a process that is
killed leaves what was there before, or all of the new; never half. A matrix is read memory-mapped.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
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


_DIGITS = 32  # of a checksum
# Rows that are looked at together, so that a large matrix is checked in little memory.
_PIECE = 1 << 16
# How far the squared length of a unit vector may be from 1 by rounding, and much more.
_OFF_UNIT = 1e-3


def write_matrix(path: Path, parts: Iterable[np.ndarray], rows: int, width: int) -> str:
    """Write a matrix, piece by piece.

    Args:
      path: the file; replaced at once when all is written.
      parts: float32[n, width] each.
      rows: of all parts together.
      width: of a vector.

    Returns:
      The matrix's checksum, as `checksum_of` gives it.

    Raises:
      ValueError: the parts are not of that many rows, that width, or float32.
    """
    digest = hashlib.sha256()

    def checked() -> Iterator[np.ndarray]:
        left = rows
        for part in parts:
            if part.dtype != np.float32 or part.ndim != 2 or part.shape[1] != width:
                raise ValueError(f"vectors are {part.dtype} {part.shape}, not float32 [n, {width}]")
            left -= len(part)
            part = np.ascontiguousarray(part)
            digest.update(memoryview(part).cast("B") if part.size else b"")
            yield part
        if left:
            raise ValueError(f"{rows - left} vectors came, not {rows}")

    shapes, dtype = {TENSOR: (rows, width)}, np.dtype(np.float32)
    with whole_file(path, sync=True) as part_path, part_path.open("wb") as file:
        write_parts(file, shapes, dtype, checked(), align=_ALIGN)
    return digest.hexdigest()[:_DIGITS]


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


def checksum_of(matrix: np.ndarray) -> str:
    """Return the checksum of a matrix's values, 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for start in range(0, len(matrix), _PIECE):
        piece = np.ascontiguousarray(matrix[start : start + _PIECE])
        digest.update(memoryview(piece).cast("B"))
    return digest.hexdigest()[:_DIGITS]


def are_usable(vectors: np.ndarray) -> np.ndarray:
    """Tell which vectors are unit vectors, bool[n]; NaN, infinity and zero are none.

    Args:
      vectors: float32[n, E].

    Example:
      >>> are_usable(np.array([[0, 1], [0, 0], [np.nan, 1], [0, 1e30]], np.float32)).tolist()
      [True, False, False, False]
    """
    good = np.empty(len(vectors), bool)
    for start in range(0, len(vectors), _PIECE):
        piece = np.asarray(vectors[start : start + _PIECE])
        # Squares of large values overflow to infinity, which is not 1 either.
        with np.errstate(over="ignore", invalid="ignore"):
            length = np.einsum("ge,ge->g", piece, piece)
            good[start : start + _PIECE] = np.abs(length - 1) <= _OFF_UNIT
    return good


def check_matrix(path: Path, matrix: np.ndarray, ids: Sequence[str], checksum: str) -> None:
    """Refuse a matrix that is not what was written.

    Args:
      path: its file, for the message.
      matrix: float32[n, E], from `read_matrix`.
      ids: of the n rows.
      checksum: what `write_matrix` returned; '' for an older file, of which the rows alone tell.

    Raises:
      UserError: naming the first row that is no unit vector, if there is one.
    """
    if checksum and checksum_of(matrix) == checksum:
        return
    bad = np.flatnonzero(~are_usable(matrix))
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"{path} is damaged: the vector of {ids[row]} (row {row}) is no unit vector, and "
            f"{len(bad) - 1:,} others; build the index again"
        )
    if checksum:
        raise UserError(
            f"{path} is damaged: it does not hold the vectors that were written (its checksum "
            "differs); build the index again"
        )


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
