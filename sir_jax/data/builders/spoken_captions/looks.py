"""What a picture looks like, in a few bytes, and which pictures look alike.

Copies that were resized, saved again or brightened have other bytes and the same look. A look is a
hash of 64 bits, by which candidates are found, and a thumbnail, by which they are compared.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sir_jax.data.builders.chunk_files import DIGEST_BYTES, digest, new_chunk, read_record
from sir_jax.data.builders.recorded import read_picture_bytes
from sir_jax.data.builders.recordings import Layout
from sir_jax.data.builders.work_chunks import chunks_of, files_of, make_chunks
from sir_jax.data.media.image import MAX_PIXELS, load_image
from sir_jax.data.media.picture_files import open_picture
from sir_jax.errors import UserError

_CHUNK = 64
# A JPEG is decoded at an eighth of its sides at most, and not below these.
_DRAFT = 96
_SIDE = 16
# Grey levels by which neighbours differ at least to count as darker.
_STEP = 2
_MOST_BITS = 4  # of 64, that the hashes of two like pictures differ in
_CORRELATION = 0.985  # of the thumbnails of two like pictures, at least
_FLAT = 6.0  # standard deviation in grey levels below which nothing is seen in a thumbnail
_BLOCK = 256


class Look(NamedTuple):
    """What is known of a picture.

    Attributes:
      digest: of its bytes; all zero of a file that cannot be read.
      bits: the hash.
      thumbnail: uint8 [16, 16, 3]; None if it cannot be decoded.
    """

    digest: bytes
    bits: int
    thumbnail: np.ndarray | None


def looks_of(
    folder: Path,
    names: Sequence[str],
    work: Path,
    workers: int,
    report: Callable[[int], None] = lambda pictures: None,
) -> list[Look]:
    """Return the looks of pictures.

    Args:
      folder: of the pictures.
      names: of the pictures, relative to it.
      work: folder for what is known so far; a second call goes on from it.
      workers: number of processes at a time.
      report: called with the number of pictures that have just been looked at.

    Raises:
      UserError: a file cannot be written, for example because the disk is full.
    """
    numbered = list(enumerate(names))
    chunks = chunks_of(numbered, work / _fingerprint(folder, names), _CHUNK)
    make = functools.partial(look_at, folder)
    make_chunks(chunks, make, workers, report, Layout.deadline, _give_up)
    looks = []
    for path, entries in files_of(chunks):
        looks += [_read(path, number) for number, _ in entries]
    return looks


def look_at(folder: Path, path: Path, entries: Sequence[tuple[int, str]]) -> None:
    """Write the looks of some pictures into a chunk file.

    Args:
      folder: of the pictures.
      path: of the chunk.
      entries: their numbers and names.
    """
    with new_chunk(path) as chunk:
        for number, name in entries:
            try:
                data = read_picture_bytes(folder / name, name)
            except UserError:
                data = b""
            chunk.add(number, _encoded(data, name), b"", {})


def alike(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of each two pictures that look alike, and of some that do by others.

    Args:
      looks: from `looks_of`.
    """
    seen = np.array([i for i, look in enumerate(looks) if look.thumbnail is not None], np.int64)
    if not len(seen):
        return
    thumbnails = np.stack([looks[i].thumbnail for i in seen]).reshape(len(seen), -1)
    # Most look-alikes are the same thumbnail: chains of them, so that many take no more time.
    _, first, which = np.unique(thumbnails, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    for row in np.flatnonzero(first[which] != np.arange(len(seen))):
        yield int(seen[first[which[row]]]), int(seen[row])
    kept = np.sort(first)
    seen, thumbnails = seen[kept], thumbnails[kept].astype(np.float32)
    thumbnails -= thumbnails.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.mean(np.square(thumbnails), axis=1))
    thumbnails /= np.maximum(deviation, 1e-6)[:, None] * np.sqrt(thumbnails.shape[1])
    bits = np.array([looks[i].bits for i in seen], np.uint64)
    for start in range(0, len(seen), _BLOCK):
        some = slice(start, start + _BLOCK)
        near = np.bitwise_count(bits[some, None] ^ bits[None, start:]) <= _MOST_BITS
        rows, columns = np.nonzero(near)
        rows, columns = rows + start, columns + start
        pairs = (columns > rows) & (deviation[rows] > _FLAT) & (deviation[columns] > _FLAT)
        for a, b in zip(rows[pairs], columns[pairs], strict=True):
            if thumbnails[a] @ thumbnails[b] >= _CORRELATION:
                yield int(seen[a]), int(seen[b])


def _encoded(data: bytes, name: str) -> bytes:
    if not data:
        return bytes(DIGEST_BYTES)
    try:
        with open_picture(data, name, MAX_PIXELS) as image:
            if image.format == "JPEG":
                image.draft(None, (_DRAFT, _DRAFT))
            picture = load_image(image, name)
    # On damaged files Pillow's parsers raise any exception; making the corpus says what is wrong.
    except Exception:
        return digest(data)
    thumbnail = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    grey = picture.convert("L").resize((9, 8), Image.Resampling.BOX)
    levels = np.asarray(grey, np.int16)
    bits = np.packbits(levels[:, 1:] > levels[:, :-1] + _STEP).tobytes()
    return digest(data) + bits + thumbnail.tobytes()


def _read(path: Path, number: int) -> Look:
    record = read_record(path, number)
    identity, bits = record[:DIGEST_BYTES], record[DIGEST_BYTES : DIGEST_BYTES + 8]
    if not bits:
        return Look(identity, 0, None)
    pixels = np.frombuffer(record[DIGEST_BYTES + 8 :], np.uint8)
    return Look(identity, int.from_bytes(bits), pixels.reshape(_SIDE, _SIDE, 3))


def _give_up(path: Path, entry: tuple[int, str], why: str) -> None:
    """Write the look of a picture that kills or hangs its decoder: nobody knows it."""
    del why
    with new_chunk(path) as chunk:
        chunk.add(entry[0], bytes(DIGEST_BYTES), b"", {})


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    """Return a hash of the files: a change of one of them is another folder of looks."""
    found = hashlib.blake2b(os.path.realpath(folder).encode(errors="surrogateescape"))
    for name in names:
        try:
            info = os.stat(folder / name)
            stamp = (info.st_size, info.st_mtime_ns)
        except (OSError, ValueError):
            stamp = (-1, -1)
        found.update(f"{name} {stamp}\n".encode(errors="surrogateescape"))
    return f"looks-{found.hexdigest()[:12]}"
