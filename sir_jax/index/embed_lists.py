"""Embed long lists of files chunk by chunk: resumable, on one host or on several.

The list is cut into chunks of one kind each, pictures first. Host i of n embeds the chunks whose
number is i modulo n. Each chunk becomes a matrix and then a JSON file, which marks the chunk as
done. A chunk that is done is skipped unless the model, the chunk's list or one of its files has
changed.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sir_jax.data.parallel import GROUP
from sir_jax.errors import UserError
from sir_jax.index import vectors as files
from sir_jax.index.folder import KINDS, Stamp, kind_of, stamp_of
from sir_jax.index.gallery import IN_ROOT, Gallery, StoredGallery, load_stored
from sir_jax.index.query import kind_of_content
from sir_jax.inference.inputs import Reader, load_speech
from sir_jax.runtime.locks import only_one

FOLDER = "chunks"
FORMAT = "sir_jax.chunk"
SIZE = 1024


class Item(NamedTuple):
    """An item to embed.

    Attributes:
      id: the item's name in the index.
      kind: 'image' or 'speech'.
      content: a path, or another form that `Retriever.encode_image` or `encode_speech` takes.
      source: the item's file, as in `Gallery.sources`.
      stamp: the file's stamp before it is read; None if there is no file.
    """

    id: str
    kind: str
    content: Any
    source: str | None
    stamp: Stamp | None


class Failure(NamedTuple):
    """An item that could not be read: why, its file (as in `Gallery.sources`) and its stamp."""

    reason: str
    source: str | None
    stamp: Stamp | None


class Embedded(NamedTuple):
    """The outcome of embedding items of one kind: their gallery, and the failures by id."""

    gallery: Gallery
    failed: dict[str, Failure]


@dataclasses.dataclass(frozen=True)
class ChunkPlan:
    """A list of items and the chunks that it is cut into.

    Attributes:
      items: the items of each kind.
      chunks: (kind, start, end) of each chunk, which holds `items[kind][start:end]`.
    """

    items: dict[str, Sequence[Item]]
    chunks: list[tuple[str, int, int]]

    @classmethod
    def of_items(cls, items: Iterable[Item], size: int = SIZE) -> "ChunkPlan":
        """Cut a list into chunks.

        Args:
          items: items of both kinds, in any order.
          size: most items in a chunk.

        Raises:
          UserError: two items have the same id.
        """
        by_kind: dict[str, list[Item]] = {kind: [] for kind in KINDS}
        seen = set()
        for item in items:
            if item.id in seen:
                raise UserError(f"{item.id} is in the list twice; list each file once")
            seen.add(item.id)
            by_kind[item.kind].append(item)
        chunks = [
            (kind, start, min(start + size, len(of_kind)))
            for kind, of_kind in by_kind.items()
            for start in range(0, len(of_kind), size)
        ]
        return cls(by_kind, chunks)

    def of_shard(self, shard: tuple[int, int]) -> range:
        """Return the numbers of the chunks of shard (i, n)."""
        return range(shard[0], len(self.chunks), shard[1])

    def chunk(self, number: int) -> Sequence[Item]:
        """Return the items of a chunk."""
        kind, start, end = self.chunks[number]
        return self.items[kind][start:end]


def items_in_folder(root: Path, stamps: dict[str, Stamp], ids: Iterable[str]) -> list[Item]:
    """Make items of files in a folder.

    Args:
      root: the folder.
      stamps: the stamp of each file in the folder, by id.
      ids: the ids of the items to make.
    """
    return [Item(name, kind_of(name), root / name, IN_ROOT, stamps[name]) for name in ids]


def item_of_path(path: str, name: str | None = None) -> Item:
    """Make an item of one file.

    Args:
      path: a picture or a recording.
      name: the item's id; None for the path as it is given.

    Raises:
      UserError: the suffix is neither a picture's nor a recording's.
    """
    if (kind := kind_of(path)) is None:
        raise UserError(
            f"{path}: its suffix is neither a picture's nor a recording's; leave it out"
        )
    source = str(Path(path).absolute())
    return Item(name or path, kind, Path(path), source, stamp_of(path))


def item_of_content(
    position: int, content: Any, name: str | None, of: str | None, root: Path | None
) -> Item:
    """Make an item of a path or of content in memory.

    Args:
      position: the item's number in a list, for messages.
      content: a path, or another form that `Retriever.encode_image` or `encode_speech` takes.
      name: the item's id; None for the path of a file, relative to `root` if it is under it.
      of: the kind of content that shows none itself (bytes).
      root: the folder of the index, or None.

    Raises:
      UserError: the content is in memory and has no name, or its kind is unknown.
    """
    if isinstance(content, str | os.PathLike):
        item, path = item_of_path(os.fspath(content), name), Path(content).absolute()
        if name is None and root is not None and path.is_relative_to(root):
            item = item._replace(id=path.relative_to(root).as_posix(), source=IN_ROOT)
        return item
    if name is None:
        raise UserError(f"item {position} is no path; give ids")
    kind = kind_of_content(content, of)
    if kind is None:
        raise UserError(f"{name}: bytes do not say what they are of; add of='image' or 'speech'")
    return Item(name, kind, content, None, None)


def embed_items(
    model,
    items: Sequence[Item],
    kind: str,
    *,
    errors: str = "skip",
    batch_size: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> Embedded:
    """Embed items of one kind; decoding overlaps with encoding.

    Args:
      model: a `Retriever`.
      items: the items, all of one kind.
      kind: 'image' or 'speech'.
      errors: what happens to an item that cannot be read: 'skip' or 'raise'.
      batch_size: most items that are encoded at once; None for the model's own.
      done: called after each item.

    Returns:
      `Embedded`.

    Raises:
      UserError: an item cannot be read and errors is 'raise'.
    """
    if not items:
        return Embedded(Gallery.empty(kind, model.width), {})
    if kind == "image":
        reader, encode = Reader(model.load_pixels, errors, False, kind, GROUP), model.encode_pixels
    else:
        reader, encode = Reader(load_speech, errors, False, kind), model.encode_waves

    def contents() -> Iterator:
        for item in items:
            yield item.content
            done()

    rows = encode(reader(contents()), len(items), batch_size)
    failed = {
        items[n].id: Failure(why, items[n].source, items[n].stamp) for n, why in reader.failures
    }
    read = [items[n] for n in reader.positions]
    if len(rows) and not np.isfinite(rows).all():
        bad = read[int(np.argmin(np.isfinite(rows).all(1)))]
        raise UserError(f"{bad.id}: its vector is not finite; model {model.name} is damaged")
    gallery = Gallery(
        kind, [x.id for x in read], rows, [x.source for x in read], [x.stamp for x in read]
    )
    return Embedded(gallery, failed)


def embed_list(
    model,
    plan: ChunkPlan,
    out: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    errors: str = "skip",
    batch_size: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, int]:
    """Embed the chunks of a shard that are not done yet.

    Args:
      model: a `Retriever`.
      plan: the whole list, the same on every host.
      out: the folder that gets the folder of chunks.
      shard: (i, n), the number of this host and the number of hosts.
      errors: what happens to an item that cannot be read: 'skip' or 'raise'.
      batch_size: most items that are encoded at once; None for the model's own.
      done: called with the number of items finished since the last call.

    Returns:
      The number of items that were 'embedded', that 'failed', and that were 'skipped' because
      their chunks were done.

    Raises:
      UserError: `out` cannot be written, or another process embeds the same shard.
    """
    counts = dict(embedded=0, failed=0, skipped=0)
    with only_one(out / FOLDER / f"lock-{shard[0]}-of-{shard[1]}", "out"):
        for number in plan.of_shard(shard):
            items, kind = plan.chunk(number), plan.chunks[number][0]
            key = _key(model.fingerprint, items)
            if _is_done(_path(out, number), key, items):
                counts["skipped"] += len(items)
                done(len(items))
                continue
            embedded = embed_items(
                model, items, kind, errors=errors, batch_size=batch_size, done=lambda: done(1)
            )
            _write(_path(out, number), key, embedded)
            counts["embedded"] += len(embedded.gallery)
            counts["failed"] += len(embedded.failed)
    return counts


def read_chunks(
    model, plan: ChunkPlan, out: Path
) -> tuple[dict[str, StoredGallery], dict[str, Failure]]:
    """Combine the chunks of all hosts.

    Args:
      model: the model that made the chunks; only its fingerprint and width are used.
      plan: the list that was embedded.
      out: the folder that `embed_list` wrote to.

    Returns:
      (the gallery of each kind, whose vectors are read on demand; the failures by id).

    Raises:
      UserError: chunks are missing, damaged, or of another model or list.
    """
    heads, missing = [], []
    for number in range(len(plan.chunks)):
        key = _key(model.fingerprint, plan.chunk(number))
        head = _head(_path(out, number))
        if head is None or head["key"] != key:
            missing.append(str(number))
        heads.append(head)
    if missing:
        more = ", ..." if len(missing) > 10 else ""
        raise UserError(
            f"{len(missing)} of {len(plan.chunks)} chunks are not there yet, or are of another "
            f"model or list: {', '.join(missing[:10])}{more}; run their shards"
        )

    def parts(kind: str) -> Iterator[np.ndarray]:
        for number, head in enumerate(heads):
            if plan.chunks[number][0] == kind:
                path = _path(out, number).with_suffix(files.SUFFIX)
                yield files.read_matrix(path, len(head["ids"]), model.width)

    galleries = {}
    for kind in KINDS:
        of_kind = [head for head, chunk in zip(heads, plan.chunks, strict=True) if chunk[0] == kind]
        ids, sources, stamps = (
            [value for head in of_kind for value in head[field]]
            for field in ("ids", "sources", "stamps")
        )
        galleries[kind] = StoredGallery(ids, sources, [_stamp(x) for x in stamps], parts(kind))
    failed = {
        name: Failure(why, source, _stamp(stamp))
        for head in heads
        for name, (why, source, stamp) in head["failed"].items()
    }
    return galleries, failed


def embed_galleries(
    model, plan: ChunkPlan, out: Path | None, *, errors: str, done: Callable[..., None]
) -> tuple[dict[str, Gallery], dict[str, Failure]]:
    """Embed a whole list on this host.

    Args:
      model: a `Retriever`.
      plan: the list.
      out: a folder in which finished chunks survive an interrupt; None to keep nothing on disk.
      errors: what happens to an item that cannot be read: 'skip' or 'raise'.
      done: called with the number of finished items, or without an argument after each item.

    Returns:
      (the gallery of each kind, the failures by id).
    """
    if out is not None:
        embed_list(model, plan, out, errors=errors, done=done)
        stored, failed = read_chunks(model, plan, out)
        return {kind: load_stored(kind, stored[kind], model.width) for kind in stored}, failed
    galleries, failed = {}, {}
    for kind, items in plan.items.items():
        embedded = embed_items(model, items, kind, errors=errors, done=done)
        galleries[kind] = embedded.gallery
        failed |= embedded.failed
    return galleries, failed


def _path(out: Path, number: int) -> Path:
    return out / FOLDER / f"{number:06d}.json"


def _key(fingerprint: str, items: Sequence[Item]) -> str:
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for item in items:
        digest.update(f"{item.kind} {item.id}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _head(path: Path) -> dict | None:
    return files.read_head(path, FORMAT) if path.is_file() else None


def _is_done(path: Path, key: str, items: Sequence[Item]) -> bool:
    head = _head(path)
    if head is None or head["key"] != key:
        return False
    stamps = dict(zip(head["ids"], head["stamps"], strict=True))
    stamps |= {name: stamp for name, (_, _, stamp) in head["failed"].items()}
    return all(_stamp(stamps.get(item.id)) == item.stamp for item in items)


def _stamp(values) -> Stamp | None:
    return None if values is None else Stamp(*values)


def _write(path: Path, key: str, embedded: Embedded) -> None:
    gallery = embedded.gallery
    # The JSON of an older chunk must never be beside the vectors of the new one.
    path.unlink(missing_ok=True)
    matrix = path.with_suffix(files.SUFFIX)
    files.write_matrix(matrix, [gallery.vectors], len(gallery), gallery.vectors.shape[1])
    content = dict(
        key=key,
        ids=list(gallery.ids),
        sources=list(gallery.sources),
        stamps=list(gallery.stamps),
        failed=embedded.failed,
    )
    files.write_head(path, FORMAT, content)
