"""Chunk files: the finished records of some images, what identifies their content, random access.

A chunk is a zip archive without compression. It holds a record by its image's id, as the corpus
will hold it, and a table of digests, by which copies are found.
"""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sir_jax.runtime.files import whole_file

SUFFIX = ".chunk"
DIGEST_BYTES = 16

# A picture (`caption_id` is then -1) or a recording, and the digest of its bytes.
CONTENT_DTYPE = np.dtype([("image_id", "i4"), ("caption_id", "i4"), ("digest", f"V{DIGEST_BYTES}")])

_CONTENTS = "contents"


def digest(data: bytes) -> bytes:
    """Return what identifies a content."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


class ChunkWriter:
    """Adds records to a chunk file, one at a time."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._contents: list[tuple[int, int, bytes]] = []

    def add(self, image_id: int, record: bytes, picture: bytes, recordings: dict[int, bytes]):
        """Add the record of an image.

        Args:
          image_id: unique in the corpus.
          record: as the corpus will hold it.
          picture: bytes of the picture, for its digest; b"" where there is none.
          recordings: bytes of each recording by its caption id, likewise.
        """
        self._archive.writestr(str(image_id), record)
        if picture:
            self._contents.append((image_id, -1, digest(picture)))
        self._contents += [(image_id, i, digest(audio)) for i, audio in recordings.items()]

    def finish(self) -> None:
        """Add the table of digests."""
        table = io.BytesIO()
        np.save(table, np.array(self._contents, CONTENT_DTYPE))
        self._archive.writestr(_CONTENTS, table.getvalue())


@contextlib.contextmanager
def new_chunk(path: Path) -> Iterator[ChunkWriter]:
    """Yield the writer of a chunk file, which appears when the `with` block ends without error."""
    # The partial file is this process's own: a worker of a killed call may still write the chunk.
    with whole_file(path, own=True) as part:
        with zipfile.ZipFile(part, "w") as archive:
            writer = ChunkWriter(archive)
            yield writer
            writer.finish()


def is_readable(path: Path) -> bool:
    """Tell whether a chunk file is whole: its machine may have stopped before its bytes were kept.

    A zip archive ends with its table of members, which a torn file lacks.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _CONTENTS in archive.NameToInfo
    except zipfile.BadZipFile:
        return False


def record_sizes(path: Path) -> dict[int, int]:
    """Return the size in bytes of each record of a chunk by its image's id."""
    with zipfile.ZipFile(path) as archive:
        return {
            int(member.filename): member.file_size
            for member in archive.infolist()
            if member.filename != _CONTENTS
        }


def read_record(path: Path, image_id: int) -> bytes:
    """Return the record of an image."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(str(image_id))


def read_contents(path: Path) -> np.ndarray:
    """Return a CONTENT_DTYPE entry for each picture and recording of a chunk."""
    with zipfile.ZipFile(path) as archive:
        return np.load(io.BytesIO(archive.read(_CONTENTS)))
