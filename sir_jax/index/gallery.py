"""Galleries, and the folder that an index is saved in.

`index.json` names the files that hold the vectors, with their checksums. A save writes new vectors
under new names, then replaces the JSON, then deletes the files that the JSON does not name. So an
interrupted save leaves the old index or the new one. Each save has a random generation: who has
read an older one knows that it must not write.
"""

import dataclasses
import functools
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index import vectors as files
from sir_jax.index.engines.faiss_search import FaissSearch
from sir_jax.index.folder import Stamp, digest_of
from sir_jax.index.moments import store
from sir_jax.index.moments.store import Moments

INDEX_FILE = "index.json"
FORMAT = "sir_jax.index"
# kind -> the name of its gallery in a saved index
NAMES = {"image": "images", "speech": "recordings"}
# The source of an item whose file is ROOT/ID, ROOT being the folder of the index.
IN_ROOT = ""
# A file up to this size is checked whenever it is read, which takes 0.1 s; a larger one if it has
# changed since the JSON was written, after it.
CHECKED_BYTES = 64 << 20
_TRIES = 3  # at reading an index while another process replaces it


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Items of one kind with their vectors. Immutable: changes make a new gallery.

    Attributes:
      kind: 'image' or 'speech'.
      ids: G names, unique.
      vectors: float32[G, E], unit norm.
      sources: the file of each item: `IN_ROOT`, a path, or None for an item added from memory.
      stamps: the stamp of each file when it was read; None for an item added from memory.
      checksum: of the vectors, as `vectors.checksum_of` gives it; '' where it is not known.
      moments: the windows of long recordings, whose vectors are the means of these; None for none.
    """

    kind: str
    ids: Sequence[str]
    vectors: np.ndarray
    sources: Sequence[str | None]
    stamps: Sequence[Stamp | None]
    checksum: str = ""
    moments: Moments | None = None

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

    def path_of(self, name: str, root: Path | None) -> Path:
        """Return the file of an item; `root` is the folder of the index.

        Raises:
          UserError: the item was added from memory.
        """
        source = self.sources[self.rows[name]]
        if source is None:
            raise UserError(f"{name} was added from memory, so there is no file to read")
        return root / name if source == IN_ROOT else Path(source)

    def stamp_of(self, name: str) -> Stamp | None:
        """Return the stamp of an item's file when it was read; None for one from memory."""
        return self.stamps[self.rows[name]]

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
            moments=store.joined([self.moments, other.moments]),
        )

    def without(self, ids: Iterable[str]) -> "Gallery":
        """Return a gallery without the given ids; ids that are not in the gallery are ignored."""
        gone = {self.rows[name] for name in ids if name in self.rows}
        if not gone:
            return self
        return self.taken([row for row in range(len(self)) if row not in gone])

    def taken(self, rows: Sequence[int]) -> "Gallery":
        """Return a gallery of some rows, in the given order."""
        ids = [self.ids[row] for row in rows]
        return Gallery(
            self.kind,
            ids,
            self.vectors[rows],
            [self.sources[row] for row in rows],
            [self.stamps[row] for row in rows],
            moments=self.moments and self.moments.taken(ids),
        )

    def restamped(self, stamps: Mapping[str, Stamp]) -> "Gallery":
        """Return a gallery of the same vectors with other stamps for some ids."""
        if not any(name in self.rows for name in stamps):
            return self
        new = [stamps.get(name, old) for name, old in zip(self.ids, self.stamps, strict=True)]
        return dataclasses.replace(self, stamps=new)


@dataclasses.dataclass
class StoredGallery:
    """A gallery on disk or on its way there; its vectors are read piece by piece.

    Attributes:
      ids: G names, as in `Gallery`.
      sources: the file of each item, as in `Gallery`.
      stamps: the stamp of each file, as in `Gallery`.
      parts: float32[n, E] each, together the G vectors.
      file: the name of the file that holds these vectors in the folder already; '' if none does.
      checksum: of the vectors, if they are in the folder already.
      faiss: the FAISS index of these vectors, or None.
      moments: as in `Gallery`.
    """

    ids: Sequence[str]
    sources: Sequence[str | None]
    stamps: Sequence[Stamp | None]
    parts: Iterable[np.ndarray]
    file: str = ""
    checksum: str = ""
    faiss: FaissSearch | None = None
    moments: Moments | None = None


def to_stored(gallery: Gallery, folder: Path, faiss: FaissSearch | None) -> StoredGallery:
    """Prepare a gallery for `write_index`; vectors that are in the folder already stay there."""
    matrix, file, checksum = gallery.vectors, "", ""
    if isinstance(matrix, np.memmap):
        path = Path(matrix.filename)
        if path.parent == folder.absolute() and path.exists():
            file, checksum = path.name, gallery.checksum or files.checksum_of(matrix)
    of_files = gallery.ids, gallery.sources, gallery.stamps
    return StoredGallery(*of_files, [matrix], file, checksum, faiss, gallery.moments)


def load_stored(kind: str, stored: StoredGallery, width: int) -> Gallery:
    """Read the vectors of a stored gallery into memory."""
    matrix = np.concatenate([np.zeros((0, width), np.float32), *stored.parts])
    of_files = stored.sources, stored.stamps
    return Gallery(kind, stored.ids, matrix, *of_files, moments=stored.moments)


def write_index(folder: Path, header: dict[str, Any], galleries: dict[str, StoredGallery]) -> str:
    """Write an index; a kill leaves the old one or the new one. The caller holds the folder's lock.

    Args:
      folder: created if it is missing.
      header: plain data from `Header.to_json`.
      galleries: the gallery of each kind.

    Returns:
      The generation.

    Raises:
      UserError: the folder cannot be written to.
    """
    width, entries, named = header["model"]["width"], {}, set()
    generation = secrets.token_hex(8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, gallery in galleries.items():
            stem = f"{NAMES[kind]}-{secrets.token_hex(6)}"
            if not gallery.file:
                gallery.file = stem + files.SUFFIX
                rows = len(gallery.ids)
                path = folder / gallery.file
                gallery.checksum = files.write_matrix(path, gallery.parts, rows, width)
            entry = dict(
                file=gallery.file,
                checksum=gallery.checksum,
                ids=list(gallery.ids),
                sources=list(gallery.sources),
                stamps=list(gallery.stamps),
            )
            if gallery.faiss is not None:
                way, recall = gallery.faiss.way, gallery.faiss.recall
                path = folder / f"{stem}.faiss"
                gallery.faiss.save(path)
                digest = digest_of(path)
                entry["faiss"] = dict(file=path.name, way=way, recall=recall, checksum=digest)
                named.add(path.name)
            if gallery.moments is not None:
                entry["moments"] = store.write_moments(folder / stem, gallery.moments)
                named.update(store.files_of(entry["moments"]))
            named.add(gallery.file)
            entries[NAMES[kind]] = entry
        content = {"generation": generation} | header | {"galleries": entries}
        files.write_head(folder / INDEX_FILE, FORMAT, content)
        for name in NAMES.values():
            for path in folder.glob(f"{name}-*"):
                if path.name not in named:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from error
    return generation


def generation_of(folder: Path) -> str | None:
    """Return the generation of the index in a folder; '' for an older index, None for none."""
    path = folder / INDEX_FILE
    return files.read_head(path, FORMAT).get("generation", "") if path.is_file() else None


def require_generation(folder: Path, known: Mapping[Path, str | None]) -> None:
    """Refuse a folder whose index is not the one that was last read from or written to it.

    Args:
      folder: of the index.
      known: the generation of each folder, by its resolved path; other folders pass.

    Raises:
      UserError: another process has written there.
    """
    place = folder.resolve()
    if place in known and generation_of(folder) not in (None, known[place]):
        raise UserError(
            f"{folder} was written by another process since this index was read; load it again"
        )


def read_index(
    folder: Path, verify: bool | None = None
) -> tuple[dict[str, Any], dict[str, Gallery], dict[str, FaissSearch]]:
    """Read an index; the vectors are memory-mapped.

    Args:
      folder: the folder that `write_index` wrote.
      verify: whether to compare files with their checksums; None for those of up to
        `CHECKED_BYTES`, and those that have changed since they were written.

    Returns:
      (header, the gallery of each kind, the FAISS index of each kind that has one).

    Raises:
      UserError: there is no index, or it is damaged.
    """
    path = folder.absolute() / INDEX_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no index ({INDEX_FILE}); make one with `sir-jax index`")
    for left in reversed(range(_TRIES)):
        header = files.read_head(path, FORMAT)
        try:
            return header, *_read_galleries(path, header, verify)
        except UserError:
            # Where the index was replaced meanwhile, the files that the header names are gone.
            if not left or generation_of(folder) == header.get("generation", ""):
                raise
    raise AssertionError


def _read_galleries(
    path: Path, header: dict[str, Any], verify: bool | None
) -> tuple[dict[str, Gallery], dict[str, FaissSearch]]:
    galleries, faiss = {}, {}
    try:
        width = header["model"]["width"]
        for kind, name in NAMES.items():
            entry = header["galleries"][name]
            galleries[kind] = _read_gallery(path, kind, entry, width, verify)
            if saved := entry.get("faiss"):
                file = path.parent / _bare_name(saved["file"])
                checksum = saved.get("checksum", "")
                if checksum and _is_checked(file, path, verify) and digest_of(file) != checksum:
                    raise UserError(
                        f"{file} is damaged (its checksum differs); build the index again"
                    )
                vectors = galleries[kind].vectors
                faiss[kind] = FaissSearch.load(file, vectors, saved["way"], saved["recall"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); build the index again") from error
    return galleries, faiss


def _read_gallery(path: Path, kind: str, entry: dict, width: int, verify: bool | None) -> Gallery:
    ids, sources, stamps = entry["ids"], entry["sources"], entry["stamps"]
    if not len(ids) == len(sources) == len(stamps) == len(set(ids)):
        raise ValueError(f"{NAMES[kind]} have ids, sources and stamps that do not fit")
    stamps = [None if stamp is None else Stamp(*stamp) for stamp in stamps]
    file, checksum = path.parent / _bare_name(entry["file"]), entry.get("checksum", "")
    matrix = files.read_matrix(file, len(ids), width)
    if _is_checked(file, path, verify):
        files.check_matrix(file, matrix, ids, checksum)
    moments = store.read_moments(path.parent, entry.get("moments"), width)
    return Gallery(kind, ids, matrix, sources, stamps, checksum, moments)


def _is_checked(file: Path, head: Path, verify: bool | None) -> bool:
    """Tell whether to compare a file with its checksum, see `read_index`."""
    if verify is not None or not file.is_file():
        return bool(verify)
    status = file.stat()
    return status.st_size <= CHECKED_BYTES or status.st_mtime_ns > head.stat().st_mtime_ns


def _bare_name(name: str) -> str:
    # A path with folders could point outside of the index.
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no file name beside it")
    return name
