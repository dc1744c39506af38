"""The `Index` of pictures and recordings: a recording finds pictures, a picture finds recordings.

Search is exact up to a million vectors; see `engines.faiss_search` for more. Scores are inner
products of unit vectors. Re-ranking orders the best hits by score and match score together.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index import embed_lists, updates
from sir_jax.index import gallery as stored
from sir_jax.index.engines.faiss_search import choose_way
from sir_jax.index.engines.searcher import Searcher
from sir_jax.index.folder import KINDS, Passed, Stamp, Update
from sir_jax.index.gallery import Gallery
from sir_jax.index.header import Header, as_model, check_model, describe_index, describe_model
from sir_jax.index.items import Failure, Item, item_of_content, items_of_source, rerank_readable
from sir_jax.index.moments.search import cut_moment, encode, find_hits, moments_of
from sir_jax.index.moments.store import Moment
from sir_jax.index.query import OTHER, Hit, check_search, group_queries, plain_queries
from sir_jax.runtime.console import Progress
from sir_jax.runtime.locks import only_one
from sir_jax.runtime.workdir import require_local


class Index:
    """Pictures and recordings with their vectors, to search, update and save.

    Attributes:
      model: the `Retriever` that made the vectors; None if the index was loaded without a model.
      about: 'name', 'fingerprint' and 'width' of the model.
      root: the folder that ids are relative to; None for an index of other items.
      failed: id -> `Failure` of each file that could not be read.
      passed: id -> `Passed` of each file of the folder that is neither picture nor recording.
      noted: id -> what is odd about an item: a picture of one colour, digital silence.
      way: how the index is searched: 'auto', 'exact', 'ivf' or 'hnsw'.

    Example:
      >>> import numpy as np, sir_jax
      >>> index = sir_jax.Index("spoken-scenes")
      >>> pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
      >>> index.add(list(pixels), ids=["first", "second"])  # or paths of pictures and recordings
      >>> [hit.id for hit in index.search(pixels[0], k=1, of="image")]  # or a path
      ['first']
    """

    def __init__(self, model, root: Path | None = None, way: str = "auto"):
        """Make an empty index.

        Args:
          model: a `Retriever`, or what `Retriever.load` takes.
          root: the folder that ids of later items are relative to, or None.
          way: how the index is searched: 'auto', 'exact', 'ivf' or 'hnsw'.

        Raises:
          UserError: there is no such model or way.
        """
        choose_way(0, way)
        self.model = as_model(model)
        self.about = describe_model(self.model)
        self.root, self.way = root, way
        self.failed: dict[str, Failure] = {}
        self.passed: dict[str, Passed] = {}
        self.noted: dict[str, str] = {}
        self._generations: dict[Path, str | None] = {}
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
        """Make an index of a folder or of a list of files.

        Args:
          model: a `Retriever`, or what `Retriever.load` takes.
          source: a folder: ids are paths relative to it. Or paths of files, which become the ids.
            What a file holds, else its suffix, tells a picture from a recording.
          out: a folder without an index. The index is saved there, and so are finished chunks while
            it is built: after an interrupt the same call continues.
          progress: whether to report progress on stderr.
          errors: a file that cannot be read is noted in `failed` by 'skip', and stops by 'raise'.
          way: how the index is searched: 'auto', 'exact', 'ivf' or 'hnsw'.

        Raises:
          UserError: the folder does not exist or is empty, a file cannot be read and `errors` is
            'raise', or `out` cannot be written or holds an index already.
        """
        out = None if out is None else require_local(out)
        root, items, passed = items_of_source(source, out)
        index = cls(model, root, way)
        index.passed = passed
        if out is not None:
            if (out / stored.INDEX_FILE).exists():
                raise UserError(f"{out} holds an index already; update it or choose another folder")
            index._generations[out.resolve()] = None
        index.put(items, set(), out, progress, errors)
        return index if out is None else cls.load(out, index.model)

    @property
    def images(self) -> Gallery:
        """Return the gallery of pictures."""
        return self._galleries["image"]

    @property
    def recordings(self) -> Gallery:
        """Return the gallery of recordings."""
        return self._galleries["speech"]

    def describe(self) -> dict:
        """Return a summary of the index as plain data: sizes, root, model and way of search."""
        return describe_index(self)

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
        """Add items; if one is refused, none is added.

        Args:
          items: paths, or other forms that `Retriever.encode_image` and `encode_speech` take.
          ids: the items' names; None for their paths, relative to the root where they are under it.
          of: the kind, 'image' or 'speech', of items that show none themselves (bytes).
          progress: whether to report progress on stderr.
          errors: where an item cannot be read 'raise' refuses all, 'skip' notes it in `failed`.

        Raises:
          UserError: an id is missing or in the index already, or an item cannot be read.
        """
        self._require_model()
        items = list(items)
        if ids is not None and len(ids) != len(items):
            raise UserError(f"{len(ids)} ids for {len(items)} items; give one each")
        names = [None] * len(items) if ids is None else ids
        named_items = [
            item_of_content(position, item, name, of, self.root)
            for position, (item, name) in enumerate(zip(items, names, strict=True))
        ]
        self.put(named_items, set(), None, progress, errors)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove items; if an id is not in the index, none is removed.

        Args:
          ids: names of items, or one name.

        Raises:
          UserError: an id is not in the index.
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
        allow_removal: bool = False,
        checksum: bool = False,
    ) -> Update:
        """Bring the index up to date with its folder.

        New and changed files are embedded, and files that could not be read are tried again. Files
        that are gone are removed, if they are few (`updates.REMOVED_SHARE`); those that a link to
        nothing or an empty subfolder stands for are kept, and so are items from elsewhere.

        Args:
          folder: the folder if it was moved; None for the root.
          out: a folder to save the index to at the end; after an interrupt the same call continues.
          progress: whether to report progress on stderr.
          errors: a file that cannot be read is noted in `failed` by 'skip', and stops by 'raise'.
          allow_removal: whether to remove everything that is not in the folder any more.
          checksum: whether to compare the files' contents instead of their sizes and times.

        Returns:
          `Update`: the ids that were added, changed and removed, and those that failed.

        Raises:
          UserError: the index was not built from a folder, more files are gone than may be removed
            without `allow_removal`, a file cannot be read and `errors` is 'raise', `out` cannot be
            written, or another process has written there since the index was read.
        """
        self._require_model()
        guards = dict(allow_removal=allow_removal, checksum=checksum)
        plan = updates.plan_update(self, folder, out=out, **guards)
        if plan.refusal:
            remedy = "see that its drive is mounted, or give allow_removal=True"
            raise UserError(f"{plan.refusal}; nothing was changed: {remedy}")
        return updates.carry_out(self, plan, out=out, progress=progress, errors=errors)

    def search(self, query, k: int = 10, *, rerank: int = 0, of: str | None = None) -> list:
        """Find the items that match a query best.

        Args:
          query: a recording or picture as a path, bytes, (samples, rate), PIL image or uint8 array;
            words, by `sir_jax.say`; a list of these; or vectors, [E] or [n, E] of any float type.
          k: most hits per query.
          rerank: how many of the best hits by score the fusion encoder re-ranks: at least k, or 0
            for no re-ranking.
          of: the kind to search for, 'image' or 'speech'. None: pictures for a recording, and the
            reverse. Required for bytes and vectors.

        Returns:
          A list of `Hit`s, best first: by score or, with re-ranking, by
          `score / temperature + match`; those whose file cannot be read come last then. For a list
          or matrix of queries, a list of such lists.

        Raises:
          UserError: a query cannot be read or its kind is unknown; with re-ranking, the model has
            no matching head, `rerank` is below k, or an item has no file.
        """
        (k, rerank), query = check_search(k, rerank, of), plain_queries(query)
        if isinstance(query, np.ndarray) and query.dtype == np.float32 and query.ndim < 3:
            if rerank:
                raise UserError("vectors cannot be re-ranked; give the recordings or pictures")
            if of is None:
                raise UserError("vectors do not say what they are of; add of='image' or 'speech'")
            hits = self._find(np.atleast_2d(query), of, k)
            return hits[0] if query.ndim == 1 else hits
        queries = query if isinstance(query, list) else [query]
        self._require_model()
        results: list = [None] * len(queries)
        for (kind, target), positions in group_queries(queries, of).items():
            group = [queries[n] for n in positions]
            vectors = encode(self.model, group, kind)
            found = zip(group, vectors, self._find(vectors, target, rerank or k), strict=True)
            for position, (item, z, hits) in zip(positions, found, strict=True):
                ranked = self._rerank(item, z, kind, target, hits) if rerank else hits
                results[position] = ranked[:k]
        return results if isinstance(query, list) else results[0]

    def moments(self, query, ids: Iterable[str], k: int = 3) -> dict[str, list[Moment]]:
        """Find where in long recordings a query is heard best.

        Args:
          query: one picture or recording, as in `search`, or its vector.
          ids: of recordings.
          k: most moments of each; of those that overlap, the better one.

        Returns:
          id -> each a `Moment`, best first; none for a recording that the model reads at once.
        """
        return moments_of(self, query, ids, k)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the index; a kill leaves the old one or the new one, never half.

        Args:
          folder: created if it is missing; an index in it is replaced.

        Raises:
          UserError: the folder cannot be written to, another process is writing there, or has done
            so since the index was read from there.
        """
        with only_one(require_local(folder), "folder"):
            self._write(Path(folder))

    def _write(self, folder: Path) -> None:
        """Save to a folder whose lock this process holds."""
        stored.require_generation(folder, self._generations)
        faiss = {kind: searcher.faiss for kind, searcher in self._searchers.items()}
        galleries = {
            kind: stored.to_stored(gallery, folder, faiss.get(kind))
            for kind, gallery in self._galleries.items()
        }
        header = Header(self.about, self.root, self.way, self.failed, self.passed, self.noted)
        generation = stored.write_index(folder, header.to_json(), galleries)
        self._generations[folder.resolve()] = generation

    @classmethod
    def load(cls, folder: str | os.PathLike, model=None, *, verify: bool | None = None) -> "Index":
        """Read an index; its vectors stay on disk until they are searched.

        Args:
          folder: the folder that the index was saved in.
          model: a `Retriever` or what `Retriever.load` takes; None to search with vectors only.
          verify: whether to compare the vectors with their checksums. None: unless they are many
            (`gallery.CHECKED_BYTES`) and their file is as old as the index.

        Raises:
          UserError: there is no index, it is damaged, or another model made it.
        """
        content, galleries, faiss = stored.read_index(Path(folder), verify)
        index = cls.__new__(cls)
        index._generations = {Path(folder).resolve(): content.get("generation", "")}
        index.model, index._galleries = None, galleries
        index._searchers = {kind: Searcher(galleries[kind].vectors, faiss[kind]) for kind in faiss}
        header = Header.from_json(content, Path(folder) / stored.INDEX_FILE)
        index.about, index.root, index.way, index.failed, index.passed, index.noted = header
        if model is not None:
            index.model = as_model(model)
            check_model(index.about, index.model, folder)
        return index

    def _require_model(self) -> None:
        if self.model is None:
            raise UserError("the index was loaded without a model; Index.load(folder, model)")

    def _has(self, name: str) -> bool:
        return any(name in gallery.rows for gallery in self._galleries.values())

    def put(
        self,
        items: Sequence[Item],
        gone: set[str],
        out: str | os.PathLike | None,
        progress: bool,
        errors: str,
        restamped: Mapping[str, Stamp] = {},
    ) -> dict[str, Failure]:
        """Embed items, remove the ids in `gone`, save to `out` if given; return the failures."""
        for item in items:
            if item.id not in gone and self._has(item.id):
                raise UserError(f"{item.id} is in the index already; remove it first")
        plan = embed_lists.ChunkPlan.of_items(items)
        out = None if out is None else require_local(out)
        lock = only_one(out, "folder") if out else contextlib.nullcontext()
        with lock, Progress(len(items), "files embedded", progress) as bar:
            if out is not None:
                # Before the work, and not only after it.
                stored.require_generation(out, self._generations)
            given = dict(errors=errors, done=bar.update)
            galleries, failed, noted = embed_lists.embed_galleries(self.model, plan, out, **given)
            self._drop(gone)
            for kind, gallery in galleries.items():
                self._galleries[kind] = self._galleries[kind].restamped(restamped)
                self._set(kind, self._galleries[kind].joined(gallery))
                for name in gallery.ids:
                    self.failed.pop(name, None)
            self.failed |= failed
            self.noted |= noted
            if out is not None:
                self._write(out)
                shutil.rmtree(out / embed_lists.FOLDER, ignore_errors=True)
        return failed

    def _drop(self, ids: Iterable[str]) -> None:
        for kind, gallery in self._galleries.items():
            self._set(kind, gallery.without(ids))
        for name in ids:
            self.failed.pop(name, None)
            self.noted.pop(name, None)

    def _set(self, kind: str, gallery: Gallery) -> None:
        if gallery is not self._galleries[kind]:
            self._galleries[kind] = gallery
            self._searchers.pop(kind, None)

    def _find(self, z: np.ndarray, target: str, k: int) -> list[list[Hit]]:
        gallery = self._galleries[target]
        self._searchers.setdefault(target, Searcher(gallery.vectors))
        samples = self._galleries[OTHER[target]].vectors
        return find_hits(gallery, self._searchers[target], z, k, self.way, samples)

    def _rerank(self, query, z, kind: str, target: str, hits: list[Hit]) -> list[Hit]:
        if kind == target:
            raise UserError("re-ranking needs a recording and a picture; this search has one kind")
        cut = functools.partial(cut_moment, self._galleries[target], z)
        return rerank_readable(self.model, query, kind, hits, self.path_of, cut) if hits else hits

    def path_of(self, name: str) -> Path:
        """Return the file of an item.

        Args:
          name: the item's id.

        Raises:
          UserError: the item is not in the index, or was added from memory.
        """
        for gallery in self._galleries.values():
            if name in gallery.rows:
                return gallery.path_of(name, self.root)
        raise UserError(f"{name} is not in the index; see `ids` of its galleries")
