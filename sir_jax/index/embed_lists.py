"""Embed long lists of files chunk by chunk: resumable, on one host or on several.

The list is cut into chunks of one kind each, pictures first. Host i of n embeds the chunks whose
number is i modulo n. Each chunk becomes a matrix and then a JSON file, which marks the chunk as
done. A chunk that is done is skipped unless the model, the chunk's list, one of its files or its
matrix has changed.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sir_jax.errors import UserError
from sir_jax.index import vectors as files
from sir_jax.index.embedding import Embedded, embed_items
from sir_jax.index.folder import KINDS, Stamp
from sir_jax.index.gallery import Gallery, StoredGallery, load_stored
from sir_jax.index.items import Failure, Item, read_failure
from sir_jax.index.moments.store import joined, read_moments, write_moments
from sir_jax.runtime.locks import only_one

FOLDER = "chunks"
FORMAT = "sir_jax.chunk"
SIZE = 1024


class Outcome(NamedTuple):
    """What became of a list.

    Attributes:
      galleries: the gallery of each kind: a `Gallery`, or a `StoredGallery` that is read on demand.
      failed: id -> `Failure`.
      noted: id -> what is odd about an item, as in `Embedded`.
    """

    galleries: dict[str, Any]
    failed: dict[str, Failure]
    noted: dict[str, str]


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
    """Embed the chunks of a shard that are not done yet, and what failed in those that are.

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
            before = _read_done(_path(out, number), key, items, model.width)
            todo = items if before is None else [x for x in items if x.id in before.failed]
            counts["skipped"] += len(items) - len(todo)
            done(len(items) - len(todo))
            if not todo:
                continue
            embedded = embed_items(
                model, todo, kind, errors=errors, batch_size=batch_size, done=lambda: done(1)
            )
            counts["embedded"] += len(embedded.gallery)
            counts["failed"] += len(embedded.failed)
            if before is None:
                _write(_path(out, number), key, embedded)
            elif len(embedded.gallery):
                _write(_path(out, number), key, _joined(before, embedded, items))
    return counts


def read_chunks(model, plan: ChunkPlan, out: Path) -> Outcome:
    """Combine the chunks of all hosts.

    Args:
      model: the model that made the chunks; only its fingerprint and width are used.
      plan: the list that was embedded.
      out: the folder that `embed_list` wrote to.

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
                matrix = files.read_matrix(path, len(head["ids"]), model.width)
                files.check_matrix(path, matrix, head["ids"], head.get("checksum", ""))
                yield matrix

    galleries = {}
    for kind in KINDS:
        of_kind = [head for head, chunk in zip(heads, plan.chunks, strict=True) if chunk[0] == kind]
        ids, sources, stamps = (
            [value for head in of_kind for value in head[field]]
            for field in ("ids", "sources", "stamps")
        )
        moments = joined(
            read_moments(out / FOLDER, head.get("moments"), model.width) for head in of_kind
        )
        stored = ids, sources, [_stamp(x) for x in stamps], parts(kind)
        galleries[kind] = StoredGallery(*stored, moments=moments)
    failed = {
        name: read_failure(values) for head in heads for name, values in head["failed"].items()
    }
    noted = {name: note for head in heads for name, note in head.get("noted", {}).items()}
    return Outcome(galleries, failed, noted)


def embed_galleries(
    model, plan: ChunkPlan, out: Path | None, *, errors: str, done: Callable[..., None]
) -> Outcome:
    """Embed a whole list on this host.

    Args:
      model: a `Retriever`.
      plan: the list.
      out: a folder in which finished chunks survive an interrupt; None to keep nothing on disk.
      errors: what happens to an item that cannot be read: 'skip' or 'raise'.
      done: called with the number of finished items, or without an argument after each item.
    """
    if out is not None:
        embed_list(model, plan, out, errors=errors, done=done)
        found = read_chunks(model, plan, out)
        loaded = {
            kind: load_stored(kind, stored, model.width) for kind, stored in found.galleries.items()
        }
        return found._replace(galleries=loaded)
    found = Outcome({}, {}, {})
    for kind, items in plan.items.items():
        embedded = embed_items(model, items, kind, errors=errors, done=done)
        found.galleries[kind] = embedded.gallery
        found.failed.update(embedded.failed)
        found.noted.update(embedded.noted)
    return found


def _path(out: Path, number: int) -> Path:
    return out / FOLDER / f"{number:06d}.json"


def _key(fingerprint: str, items: Sequence[Item]) -> str:
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    for item in items:
        digest.update(f"{item.kind} {item.id}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _head(path: Path) -> dict | None:
    return files.read_head(path, FORMAT) if path.is_file() else None


def _read_done(path: Path, key: str, items: Sequence[Item], width: int) -> Embedded | None:
    """Return a chunk that is done and still fits its list and its files; None for any other."""
    head = _head(path)
    if head is None or head["key"] != key:
        return None
    failed = {name: read_failure(values) for name, values in head["failed"].items()}
    stamps = [_stamp(stamp) for stamp in head["stamps"]]
    known = dict(zip(head["ids"], stamps, strict=True))
    for item in items:
        before = known.get(item.id)
        fits = before.fits(item.stamp) if before and item.stamp else before == item.stamp
        if not fits and item.id not in failed:  # what failed is read again anyway
            return None
    # A matrix that another program has changed, or that a full disk has cut off, is made again.
    try:
        matrix = files.read_matrix(path.with_suffix(files.SUFFIX), len(head["ids"]), width)
    except UserError:
        return None
    if files.checksum_of(matrix) != head.get("checksum"):
        return None
    try:
        moments = read_moments(path.parent, head.get("moments"), width)
    except (UserError, KeyError, TypeError, ValueError):
        return None
    of_files = head["sources"], stamps
    gallery = Gallery(items[0].kind, head["ids"], matrix, *of_files, moments=moments)
    return Embedded(gallery, failed, head.get("noted", {}))


def _joined(before: Embedded, now: Embedded, items: Sequence[Item]) -> Embedded:
    """Return a chunk with what did not fail any more, in the order of its items."""
    gallery = before.gallery.joined(now.gallery)
    rows = [gallery.rows[item.id] for item in items if item.id in gallery.rows]
    return Embedded(gallery.taken(rows), now.failed, before.noted | now.noted)


def _stamp(values) -> Stamp | None:
    return None if values is None else Stamp(*values)


def _write(path: Path, key: str, embedded: Embedded) -> None:
    gallery = embedded.gallery
    # The JSON of an older chunk must never be beside the vectors of the new one.
    path.unlink(missing_ok=True)
    matrix = path.with_suffix(files.SUFFIX)
    rows, width = gallery.vectors.shape
    checksum = files.write_matrix(matrix, [gallery.vectors], rows, width)
    content = dict(
        key=key,
        checksum=checksum,
        ids=list(gallery.ids),
        sources=list(gallery.sources),
        stamps=list(gallery.stamps),
        failed=embedded.failed,
        noted=embedded.noted,
        moments=write_moments(path.with_suffix(""), gallery.moments),
    )
    files.write_head(path, FORMAT, content)
