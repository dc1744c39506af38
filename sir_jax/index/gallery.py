"""The vectors of one kind of item, and the folder that an index is saved in.

`index.json` names the files of the vectors. New vectors are written under new names, then the JSON
is replaced, then what it does not name is deleted: see `vectors`.
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

HEAD = "index.json"
FORMAT = "sir_jax.index"
# kind -> what its gallery is called in a saved index
NAMES = {"image": "images", "speech": "recordings"}
# Of an item: the file under the index' root that its id names.
IN_ROOT = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Items of one kind with their vectors; never changed, only replaced.

    Attributes:
      kind: 'image' or 'speech'.
      ids: G names, unique.
      vectors: float32[G, E], unit norm.
      sources: where each item's file is: `IN_ROOT`, a path, or None for an item that was no file.
      stamps: of each file when it was read, None where there was none.
    """

    kind: str
    ids: Sequence[str]
    vectors: np.ndarray
    sources: Sequence[str | None]
    stamps: Sequence[Stamp | None]

    @classmethod
    def empty(cls, kind: str, width: int) -> "Gallery":
        """Return one without items."""
        return cls(kind, [], np.zeros((0, width), np.float32), [], [])

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Return id -> row."""
        return {name: row for row, name in enumerate(self.ids)}

    def joined(self, other: "Gallery") -> "Gallery":
        """Return the items of both, these first."""
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
        """Return the items but those of some ids; an id that is not here does not matter."""
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
class Stored:
    """One gallery as it is written: like `Gallery`, but of vectors that come in pieces.

    Attributes:
      ids, sources, stamps: see `Gallery`.
      parts: float32[n, E] each, all rows together.
      file: of `parts`, where it is in the folder already.
      faiss: of these vectors, or None.
    """

    ids: Sequence[str]
    sources: Sequence[str | None]
    stamps: Sequence[Stamp | None]
    parts: Iterable[np.ndarray]
    file: str = ""
    faiss: FaissSearch | None = None


def stored(gallery: Gallery, folder: Path, faiss: FaissSearch | None) -> Stored:
    """Return a gallery ready to be written to a folder."""
    matrix, file = gallery.vectors, ""
    if isinstance(matrix, np.memmap) and Path(matrix.filename).parent == folder.absolute():
        file = Path(matrix.filename).name
    return Stored(gallery.ids, gallery.sources, gallery.stamps, [matrix], file, faiss)


def gathered(kind: str, found: Stored, width: int) -> Gallery:
    """Return a stored gallery with its vectors in memory."""
    matrix = np.concatenate([np.zeros((0, width), np.float32), *found.parts])
    return Gallery(kind, found.ids, matrix, found.sources, found.stamps)


def write_index(folder: Path, head: dict[str, Any], galleries: dict[str, Stored]) -> None:
    """Write an index; a kill leaves the old one or the new one.

    Args:
      folder: made where it is missing.
      head: plain data, with `width` under 'model'.
      galleries: by kind.

    Raises:
      UserError: the folder cannot be written to.
    """
    width, entries, named = head["model"]["width"], {}, set()
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
        files.write_head(folder / HEAD, FORMAT, head | {"galleries": entries})
        for name in NAMES.values():
            for path in folder.glob(f"{name}-*"):
                if path.name not in named:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from error


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, Gallery], dict[str, FaissSearch]]:
    """Read what `write_index` wrote, vectors memory-mapped.

    Args:
      folder: of the index.

    Returns:
      (head, galleries by kind, FAISS by kind).

    Raises:
      UserError: there is no index, or it is damaged.
    """
    path = folder.absolute() / HEAD
    if not path.is_file():
        raise UserError(f"{folder} holds no index ({HEAD}); make one with `sir-jax index`")
    head = files.read_head(path, FORMAT)
    galleries, faiss = {}, {}
    try:
        width = head["model"]["width"]
        for kind, name in NAMES.items():
            entry = head["galleries"][name]
            galleries[kind] = _read_gallery(path, kind, entry, width)
            if more := entry.get("faiss"):
                file = path.parent / _bare(more["file"])
                vectors = galleries[kind].vectors
                faiss[kind] = FaissSearch.load(file, vectors, more["way"], more["recall"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); build the index again") from error
    return head, galleries, faiss


def _read_gallery(path: Path, kind: str, entry: dict, width: int) -> Gallery:
    ids, sources, stamps = entry["ids"], entry["sources"], entry["stamps"]
    if not len(ids) == len(sources) == len(stamps) == len(set(ids)):
        raise ValueError(f"{NAMES[kind]} have ids, sources and stamps that do not fit")
    stamps = [None if stamp is None else Stamp(*stamp) for stamp in stamps]
    matrix = files.read_matrix(path.parent / _bare(entry["file"]), len(ids), width)
    return Gallery(kind, ids, matrix, sources, stamps)


def _bare(name: str) -> str:
    # A name with a folder in it could point anywhere.
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no file name beside it")
    return name
