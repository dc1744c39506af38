"""An index of pictures and recordings: a spoken query finds pictures, a picture finds recordings.

Search is exact up to a million vectors (see `faiss_search` for more). Scores are inner products of
unit vectors. Re-ranking asks the fusion encoder about the best by score, and orders these by both.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index import embed_lists as chunks
from sir_jax.index.embed_lists import Failure, Item, Work
from sir_jax.index.engines.faiss_search import choose_way
from sir_jax.index.engines.searcher import Searcher
from sir_jax.index.folder import KINDS, Stamp, Update, compare, scan_folder
from sir_jax.index.gallery import HEAD, IN_ROOT, Gallery, gathered, read_index, stored, write_index
from sir_jax.index.header import Head, as_model, check_model, describe
from sir_jax.index.query import OTHER, Hit, check_search, group_queries, rerank_hits
from sir_jax.runtime.console import Progress
from sir_jax.runtime.locks import only_one


class Index:
    """Vectors of pictures and recordings with the names of what they are of.

    Attributes:
      model: that made the vectors; None where the index was loaded without one.
      about: the model's 'name', 'fingerprint' and 'width'.
      root: the folder that ids are relative to; None for an index of other things.
      failed: id -> `Failure`, of files that could not be read.
      way: how it is searched, one of `faiss_search.WAYS`.
    """

    def __init__(self, model, root: Path | None = None, way: str = "auto"):
        """Make an empty index.

        Args:
          model: a `Retriever`, or what `Retriever.load` takes.
          root: see the attributes.
          way: likewise.

        Raises:
          UserError: there is no such model or way.
        """
        choose_way(0, way)
        self.model = as_model(model)
        self.about = describe(self.model)
        self.root, self.way = root, way
        self.failed: dict[str, Failure] = {}
        self._galleries = {kind: Gallery.empty(kind, self.model.width) for kind in KINDS}
        self._searchers: dict[str, Searcher] = {}

    @classmethod
    def build(
        cls,
        model,
        source: str | os.PathLike | Iterable[str | os.PathLike],
        *,
        out: str | os.PathLike | None = None,
        progress: bool = False,
        errors: str = "skip",
        way: str = "auto",
    ) -> "Index":
        """Make an index of a folder, or of some files.

        Args:
          model: a `Retriever`, or what `Retriever.load` takes.
          source: a folder, whose ids are paths relative to it; or paths, which are the ids. The
            suffix tells a picture from a recording.
          out: a folder that has no index yet. The index is saved there, and what was done is kept
            there meanwhile: after an interrupt, the same call goes on.
          progress: say on stderr how far it is.
          errors: 'skip' notes in `failed` what cannot be read; 'raise' stops.
          way: see the attributes.

        Raises:
          UserError: there is no such folder, nothing in it, a file cannot be read and errors is
            'raise', or `out` cannot be written or has an index.
        """
        if isinstance(source, str | os.PathLike):
            root = Path(source).absolute()
            stamps = scan_folder(source)
            if not stamps:
                raise UserError(f"{source} holds no picture and no recording; give another folder")
            items = chunks.in_folder(root, stamps, stamps)
        else:
            root, items = None, [chunks.by_path(os.fspath(path)) for path in source]
        index = cls(model, root, way)
        if out is not None and (Path(out) / HEAD).exists():
            raise UserError(f"{out} holds an index already; update it or choose another folder")
        index._apply(items, set(), out, progress, errors)
        return index if out is None else cls.load(out, index.model)

    @property
    def images(self) -> Gallery:
        """Return the pictures."""
        return self._galleries["image"]

    @property
    def recordings(self) -> Gallery:
        """Return the recordings."""
        return self._galleries["speech"]

    def describe(self) -> dict:
        """Return what there is to know of the index, as JSON's types."""
        return {
            "images": len(self.images),
            "recordings": len(self.recordings),
            "failed": len(self.failed),
            "root": str(self.root or ""),
            "model": self.about["name"],
            "fingerprint": self.about["fingerprint"],
            "width": self.about["width"],
            "way": self.way,
        }

    def __len__(self) -> int:
        return sum(map(len, self._galleries.values()))

    def add(
        self,
        items: Iterable,
        ids: Sequence[str] | None = None,
        *,
        of: str | None = None,
        progress: bool = False,
        errors: str = "raise",
    ) -> None:
        """Add items; all or, where one is refused, none.

        Args:
          items: paths, or what `Retriever.encode_image` and `encode_speech` take.
          ids: their names; None for the paths, relative to the root where they are under it.
          of: 'image' or 'speech', for items that do not say it themselves (bytes).
          progress: see `build`.
          errors: 'raise', or 'skip' to note in `failed` what cannot be read.

        Raises:
          UserError: an id is missing or in the index already, or an item cannot be read.
        """
        self._require_model()
        items = list(items)
        if ids is not None and len(ids) != len(items):
            raise UserError(f"{len(ids)} ids for {len(items)} items; give one each")
        names = [None] * len(items) if ids is None else ids
        made = [
            chunks.as_item(place, item, name, of, self.root)
            for place, (item, name) in enumerate(zip(items, names, strict=True))
        ]
        self._apply(made, set(), None, progress, errors)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove items.

        Raises:
          UserError: an id is not in the index; nothing is removed then.
        """
        ids = [ids] if isinstance(ids, str) else list(ids)
        for name in ids:
            if not self._has(name):
                raise UserError(f"{name} is not in the index; see `ids` of its galleries")
        self._drop(ids)

    def update(
        self,
        folder: str | os.PathLike | None = None,
        *,
        out: str | os.PathLike | None = None,
        progress: bool = False,
        errors: str = "skip",
    ) -> Update:
        """Follow what changed in the folder: embed what is new or changed, drop what is gone.

        What could not be read is tried again only when it has changed. What came by `add` from
        elsewhere stays.

        Args:
          folder: None for the root; another where the folder was moved.
          out: a folder to save to at the end; after an interrupt, the same call goes on.
          progress, errors: see `build`.

        Returns:
          `Update`.

        Raises:
          UserError: the index is of no folder, or see `build`.
        """
        self._require_model()
        if self.root is None:
            raise UserError("the index was not built from a folder; use add and remove")
        root = self.root if folder is None else Path(folder).absolute()
        now, before = scan_folder(root), self._known()
        changes = compare(before, now)
        items = chunks.in_folder(root, now, [*changes.added, *changes.changed])
        self.root = root
        failed = self._apply(items, {*changes.changed, *changes.removed}, out, progress, errors)
        return Update(
            [name for name in changes.added if name not in failed],
            [name for name in changes.changed if name not in failed],
            changes.removed,
            sorted(failed),
        )

    def search(self, query, k: int = 10, *, rerank: int = 0, of: str | None = None) -> list:
        """Find what answers a query.

        Args:
          query: a recording or a picture, by path, bytes, (samples, rate), PIL image or uint8
            array; a list of such queries; or vectors, float32[E] or float32[n, E].
          k: results per query; all where there are fewer.
          rerank: how many of the best by score the fusion encoder orders anew; k or more, 0 for
            none.
          of: 'image' or 'speech', what to find. None: pictures for a recording, recordings for a
            picture; bytes and vectors do not say which.

        Returns:
          `Hit`s, best first: by score, with re-ranking by `score / temperature + match`. A list of
          lists of them for a list or a matrix.

        Raises:
          UserError: a query cannot be read, or does not say what it is; re-ranking without a
            matching head, of fewer than k, or of items that are no files.
        """
        check_search(k, rerank, of)
        if isinstance(query, np.ndarray) and query.dtype == np.float32:
            if rerank:
                raise UserError("vectors cannot be re-ranked; give the recordings or pictures")
            if of is None:
                raise UserError("vectors do not say what they are of; add of='image' or 'speech'")
            hits = self._find(np.atleast_2d(query), of, k)
            return hits[0] if query.ndim == 1 else hits
        queries = query if isinstance(query, list) else [query]
        self._require_model()
        out: list = [None] * len(queries)
        for (kind, target), places in group_queries(queries, of).items():
            group = [queries[n] for n in places]
            encode = self.model.encode_speech if kind == "speech" else self.model.encode_image
            found = self._find(encode(group), target, rerank or k)
            for place, item, hits in zip(places, group, found, strict=True):
                out[place] = self._rerank(item, kind, target, hits)[:k] if rerank else hits
        return out if isinstance(query, list) else out[0]

    def save(self, folder: str | os.PathLike) -> None:
        """Write the index; a kill leaves the old one or the new one, never half.

        Args:
          folder: made where it is missing; an index in it is replaced.

        Raises:
          UserError: it cannot be written.
        """
        folder = Path(folder)
        galleries = {
            kind: stored(gallery, folder, getattr(self._searchers.get(kind), "faiss", None))
            for kind, gallery in self._galleries.items()
        }
        head = Head(self.about, self.root, self.way, self.failed)
        write_index(folder, head.to_json(), galleries)

    @classmethod
    def load(cls, folder: str | os.PathLike, model=None) -> "Index":
        """Read an index; vectors stay on disk until they are searched.

        Args:
          folder: that it was saved in.
          model: a `Retriever` or what `Retriever.load` takes; None to search with vectors only.

        Raises:
          UserError: there is no index, it is damaged, or it is of another model.
        """
        content, galleries, faiss = read_index(Path(folder))
        index = cls.__new__(cls)
        index.model, index._galleries = None, galleries
        index._searchers = {kind: Searcher(galleries[kind].vectors, faiss[kind]) for kind in faiss}
        head = Head.from_json(content, Path(folder) / HEAD)
        index.about, index.root, index.way, index.failed = head
        if model is not None:
            index.model = as_model(model)
            check_model(index.about, index.model, folder)
        return index

    def _require_model(self) -> None:
        if self.model is None:
            raise UserError("the index was loaded without a model; Index.load(folder, model)")

    def _has(self, name: str) -> bool:
        return any(name in gallery.rows for gallery in self._galleries.values())

    def _known(self) -> dict[str, Stamp]:
        """Return the stamps of the files under the root, of those that failed, too."""
        known = {
            name: stamp
            for gallery in self._galleries.values()
            for name, source, stamp in zip(
                gallery.ids, gallery.sources, gallery.stamps, strict=True
            )
            if source == IN_ROOT
        }
        failed = self.failed.items()
        return known | {name: f.stamp for name, f in failed if f.source == IN_ROOT}

    def _apply(
        self, items: Sequence[Item], gone: set[str], out, progress: bool, errors: str
    ) -> dict[str, Failure]:
        """Embed items, put them in the place of what is gone, save to `out`; return failures."""
        for item in items:
            if item.id not in gone and self._has(item.id):
                raise UserError(f"{item.id} is in the index already; remove it first")
        work, out = Work.cut(items), None if out is None else Path(out)
        lock = contextlib.nullcontext() if out is None else only_one(out, "folder")
        with lock, Progress(len(items), "files embedded", progress) as bar:
            made, failed = self._embed(work, out, errors, bar)
            self._drop(gone)
            for kind, gallery in made.items():
                self._set(kind, self._galleries[kind].joined(gallery))
                for name in gallery.ids:
                    self.failed.pop(name, None)
            self.failed |= failed
            if out is not None:
                self.save(out)
                shutil.rmtree(out / chunks.FOLDER, ignore_errors=True)
        return failed

    def _embed(
        self, work: Work, out: Path | None, errors: str, bar: Progress
    ) -> tuple[Mapping[str, Gallery], dict[str, Failure]]:
        if out is not None:
            chunks.embed_list(self.model, work, out, errors=errors, done=bar.update)
            made, failed = chunks.read_chunks(self.model, work, out)
            return {
                kind: gathered(kind, each, self.model.width) for kind, each in made.items()
            }, failed
        made, failed = {}, {}
        for kind, items in work.items.items():
            found = chunks.embed_items(self.model, items, kind, errors=errors, done=bar.update)
            made[kind] = found.gallery
            failed |= found.failed
        return made, failed

    def _drop(self, ids: Iterable[str]) -> None:
        for kind, gallery in self._galleries.items():
            self._set(kind, gallery.without(ids))
        for name in ids:
            self.failed.pop(name, None)

    def _set(self, kind: str, gallery: Gallery) -> None:
        if gallery is not self._galleries[kind]:
            self._galleries[kind] = gallery
            self._searchers.pop(kind, None)

    def _find(self, z: np.ndarray, target: str, k: int) -> list[list[Hit]]:
        gallery = self._galleries[target]
        if target not in self._searchers:
            self._searchers[target] = Searcher(gallery.vectors)
        samples = self._galleries[OTHER[target]].vectors
        found = self._searchers[target].search(z, k, self.way, samples)
        return [
            [Hit(gallery.ids[row], float(score)) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(found.rows, found.scores, strict=True)
        ]

    def _rerank(self, query, kind: str, target: str, hits: list[Hit]) -> list[Hit]:
        if kind == target:
            raise UserError("re-ranking needs a recording and a picture; this search has one kind")
        return rerank_hits(self.model, query, kind, hits, self.path_of) if hits else hits

    def path_of(self, name: str) -> Path:
        """Return the file of an item.

        Raises:
          UserError: it is not in the index, or was no file.
        """
        for gallery in self._galleries.values():
            if name in gallery.rows:
                source = gallery.sources[gallery.rows[name]]
                if source is None:
                    raise UserError(f"{name} was added from memory, so there is no file to read")
                return self.root / name if source == IN_ROOT else Path(source)
        raise UserError(f"{name} is not in the index; see `ids` of its galleries")
