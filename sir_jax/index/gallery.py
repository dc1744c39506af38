"""Galleries, and the folder that an index is saved in.

`index.json` names the files that hold the vectors. A save writes new vectors under new names, then
replaces the JSON, then deletes the files that the JSON does not name. So an interrupted save leaves
the old index or the new one.
"""

import dataclasses
import functools
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index import vectors as files
from sir_jax.index.engines.faiss_search import FaissSearch
from sir_jax.index.folder import Stamp

INDEX_FILE = "index.json"
FORMAT = "sir_jax.index"
# kind -> the name of its gallery in a saved index
NAMES = {"image": "images", "speech": "recordings"}
# The source of an item whose file is ROOT/ID, ROOT being the folder of the index.
IN_ROOT = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Items of one kind with their vectors. Immutable: changes make a new gallery.

    Attributes:
      kind: 'image' or 'speech'.
      ids: G names, unique.
      vectors: float32[G, E], unit norm.
      sources: the file of each item: `IN_ROOT`, a path, or None for an item added from memory.
      stamps: the stamp of each file when it was read; None for an item added from memory.
    """

    kind: str
    ids: Sequence[str]
    vectors: np.ndarray
    sources: Sequence[str | None]
    stamps: Sequence[Stamp | None]

    @classmethod
    def empty(cls, kind: str, width: int) -> "Gallery":
        """Return a gallery without items."""
        return cls(kind, [], np.zeros((0, width), np.float32), [], [])

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Return the row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    def joined(self, other: "Gallery") -> "Gallery":
        """Return a gallery of these items followed by those of `other`."""
        if not len(other):
            return self
        return Gallery(
            self.kind,
            [*self.ids, *other.ids],
            np.concatenate([self.vectors, other.vectors]),
            [*self.sources, *other.sources],
            [*self.stamps, *other.stamps],
        )

    def without(self, ids: Iterable[str]) -> "Gallery":
        """Return a gallery without the given ids; ids that are not in the gallery are ignored."""
        gone = {self.rows[name] for name in ids if name in self.rows}
        if not gone:
            return self
        keep = [row for row in range(len(self)) if row not in gone]
        return Gallery(
            self.kind,
            [self.ids[row] for row in keep],
            self.vectors[keep],
            [self.sources[row] for row in keep],
            [self.stamps[row] for row in keep],
        )


@dataclasses.dataclass
class StoredGallery:
    """A gallery on disk or on its way there; its vectors are read piece by piece.

    Attributes:
      ids: G names, as in `Gallery`.
      sources: the file of each item, as in `Gallery`.
      stamps: the stamp of each file, as in `Gallery`.
      parts: float32[n, E] each, together the G vectors.
      file: the name of the file that holds these vectors in the folder already; '' if none does.
      faiss: the FAISS index of these vectors, or None.
    """

    ids: Sequence[str]
    sources: Sequence[str | None]
    stamps: Sequence[Stamp | None]
    parts: Iterable[np.ndarray]
    file: str = ""
    faiss: FaissSearch | None = None


def to_stored(gallery: Gallery, folder: Path, faiss: FaissSearch | None) -> StoredGallery:
    """Prepare a gallery for `write_index`; vectors that are in the folder already stay there."""
    matrix, file = gallery.vectors, ""
    if isinstance(matrix, np.memmap) and Path(matrix.filename).parent == folder.absolute():
        file = Path(matrix.filename).name
    return StoredGallery(gallery.ids, gallery.sources, gallery.stamps, [matrix], file, faiss)


def load_stored(kind: str, stored: StoredGallery, width: int) -> Gallery:
    """Read the vectors of a stored gallery into memory."""
    matrix = np.concatenate([np.zeros((0, width), np.float32), *stored.parts])
    return Gallery(kind, stored.ids, matrix, stored.sources, stored.stamps)


def write_index(folder: Path, header: dict[str, Any], galleries: dict[str, StoredGallery]) -> None:
    """Write an index; a kill leaves the old one or the new one.

    Args:
      folder: created if it is missing.
      header: plain data from `Header.to_json`.
      galleries: the gallery of each kind.

    Raises:
      UserError: the folder cannot be written to.
    """
    width, entries, named = header["model"]["width"], {}, set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, gallery in galleries.items():
            stem = f"{NAMES[kind]}-{secrets.token_hex(6)}"
            if not gallery.file:
                gallery.file = stem + files.SUFFIX
                rows = len(gallery.ids)
                files.write_matrix(folder / gallery.file, gallery.parts, rows, width)
            entry = dict(
                file=gallery.file,
                ids=list(gallery.ids),
                sources=list(gallery.sources),
                stamps=list(gallery.stamps),
            )
            if gallery.faiss is not None:
                way, recall = gallery.faiss.way, gallery.faiss.recall
                entry["faiss"] = dict(file=f"{stem}.faiss", way=way, recall=recall)
                gallery.faiss.save(folder / f"{stem}.faiss")
                named.add(f"{stem}.faiss")
            named.add(gallery.file)
            entries[NAMES[kind]] = entry
        files.write_head(folder / INDEX_FILE, FORMAT, header | {"galleries": entries})
        for name in NAMES.values():
            for path in folder.glob(f"{name}-*"):
                if path.name not in named:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from error


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, Gallery], dict[str, FaissSearch]]:
    """Read an index; the vectors are memory-mapped.

    Args:
      folder: the folder that `write_index` wrote.

    Returns:
      (header, the gallery of each kind, the FAISS index of each kind that has one).

    Raises:
      UserError: there is no index, or it is damaged.
    """
    path = folder.absolute() / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no index ({INDEX_FILE}); make one with `sir-jax index`")
    header = files.read_head(path, FORMAT)
    galleries, faiss = {}, {}
    try:
        width = header["model"]["width"]
        for kind, name in NAMES.items():
            entry = header["galleries"][name]
            galleries[kind] = _read_gallery(path, kind, entry, width)
            if saved := entry.get("faiss"):
                file = path.parent / _bare_name(saved["file"])
                vectors = galleries[kind].vectors
                faiss[kind] = FaissSearch.load(file, vectors, saved["way"], saved["recall"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); build the index again") from error
    return header, galleries, faiss


def _read_gallery(path: Path, kind: str, entry: dict, width: int) -> Gallery:
    ids, sources, stamps = entry["ids"], entry["sources"], entry["stamps"]
    if not len(ids) == len(sources) == len(stamps) == len(set(ids)):
        raise ValueError(f"{NAMES[kind]} have ids, sources and stamps that do not fit")
    stamps = [None if stamp is None else Stamp(*stamp) for stamp in stamps]
    matrix = files.read_matrix(path.parent / _bare_name(entry["file"]), len(ids), width)
    return Gallery(kind, ids, matrix, sources, stamps)


def _bare_name(name: str) -> str:
    # A path with folders could point outside of the index.
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no file name beside it")
    return name
