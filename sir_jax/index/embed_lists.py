"""Embed long lists of files, chunk by chunk: resumable, and on as many hosts as there are.

The list is cut into chunks of one kind, pictures first. Host i of n makes the chunks whose number
is i modulo n. Each chunk becomes a matrix and, written after it, a JSON file that marks it as done.
A chunk that is done is skipped, unless the model, the chunk's list or one of its files changed.
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
from sir_jax.index.gallery import IN_ROOT, Gallery, Stored
from sir_jax.index.query import kind_of_content
from sir_jax.inference.inputs import Reader, load_speech
from sir_jax.runtime.locks import only_one

FOLDER = "chunks"
FORMAT = "sir_jax.chunk"
SIZE = 1024


class Item(NamedTuple):
    """Something to embed.

    Attributes:
      id: its name in the index.
      kind: 'image' or 'speech'.
      content: a path, or what `Retriever.encode_image` or `encode_speech` take.
      source: see `Gallery.sources`.
      stamp: of the file, before it is read.
    """

    id: str
    kind: str
    content: Any
    source: str | None
    stamp: Stamp | None


class Failure(NamedTuple):
    """Why an item could not be read, where it is (`Gallery.sources`), and its stamp then."""

    reason: str
    source: str | None
    stamp: Stamp | None


class Embedded(NamedTuple):
    """What was made of items of one kind."""

    gallery: Gallery
    failed: dict[str, Failure]


@dataclasses.dataclass(frozen=True)
class Work:
    """A list of items cut into chunks, each (kind, first item, end) of `items[kind]`."""

    items: dict[str, Sequence[Item]]
    chunks: list[tuple[str, int, int]]

    @classmethod
    def cut(cls, items: Iterable[Item], size: int = SIZE) -> "Work":
        """Cut a list.

        Args:
          items: of any kinds.
          size: items of a chunk.

        Raises:
          UserError: two items have one id.
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
        """Return the numbers of the chunks that host i of n makes."""
        return range(shard[0], len(self.chunks), shard[1])

    def chunk(self, number: int) -> Sequence[Item]:
        """Return a chunk's items."""
        kind, start, end = self.chunks[number]
        return self.items[kind][start:end]


def in_folder(root: Path, stamps: dict[str, Stamp], ids: Iterable[str]) -> list[Item]:
    """Return items of files in a folder.

    Args:
      root: the folder.
      stamps: of its files, by id.
      ids: of those that are wanted.
    """
    return [Item(name, kind_of(name), root / name, IN_ROOT, stamps[name]) for name in ids]


def by_path(path: str, name: str | None = None) -> Item:
    """Return the item of one file.

    Args:
      path: of a picture or a recording.
      name: its id; None for the path as it stands.

    Raises:
      UserError: its suffix is neither a picture's nor a recording's.
    """
    if (kind := kind_of(path)) is None:
        raise UserError(
            f"{path}: its suffix is neither a picture's nor a recording's; leave it out"
        )
    source = str(Path(path).absolute())
    return Item(name or path, kind, Path(path), source, stamp_of(path))


def as_item(place: int, content: Any, name: str | None, of: str | None, root: Path | None) -> Item:
    """Return the item of anything that can be embedded.

    Args:
      place: its position in a list, for messages.
      content: a path, or what `Retriever.encode_image` or `encode_speech` take.
      name: its id; None for its path, relative to `root` where it is under it.
      of: its kind, where it does not say it itself.
      root: of the index.

    Raises:
      UserError: it has no id, or does not say what it is.
    """
    if isinstance(content, str | os.PathLike):
        item, path = by_path(os.fspath(content), name), Path(content).absolute()
        if name is None and root is not None and path.is_relative_to(root):
            item = item._replace(id=path.relative_to(root).as_posix(), source=IN_ROOT)
        return item
    if name is None:
        raise UserError(f"item {place} is no path; give ids")
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
    """Embed items of one kind; they are decoded while others are encoded.

    Args:
      model: a `Retriever`.
      items: what to embed.
      kind: of all of them.
      errors: 'skip' or 'raise', for what cannot be read.
      batch_size: most at once; None for the model's.
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
    good = [items[n] for n in reader.read]
    # Windows of a clip that point in opposite directions leave no direction.
    if len(rows) and not np.isfinite(rows).all():
        bad = good[int(np.argmin(np.isfinite(rows).all(1)))]
        raise UserError(f"{bad.id}: its vector is not finite; model {model.name} is damaged")
    gallery = Gallery(
        kind, [x.id for x in good], rows, [x.source for x in good], [x.stamp for x in good]
    )
    return Embedded(gallery, failed)


def embed_list(
    model,
    work: Work,
    out: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    errors: str = "skip",
    batch_size: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, int]:
    """Make the chunks of a shard that are not there yet.

    Args:
      model: a `Retriever`.
      work: the whole list, on every host the same.
      out: gets a folder of chunks.
      shard: (i, n), this host and all of them.
      errors, batch_size: see `embed_items`.
      done: given the number of items that are done since the last call.

    Returns:
      'embedded', 'failed' and 'skipped' (chunks that were there) with their counts of items.

    Raises:
      UserError: `out` cannot be written, or another process makes the same shard.
    """
    counts = dict(embedded=0, failed=0, skipped=0)
    with only_one(out / FOLDER / f"lock-{shard[0]}-of-{shard[1]}", "--out"):
        for number in work.of_shard(shard):
            items, kind = work.chunk(number), work.chunks[number][0]
            key = _key(model.fingerprint, items)
            if _is_done(_path(out, number), key, items):
                counts["skipped"] += len(items)
                done(len(items))
                continue
            found = embed_items(
                model, items, kind, errors=errors, batch_size=batch_size, done=lambda: done(1)
            )
            _write(_path(out, number), key, found)
            counts["embedded"] += len(found.gallery)
            counts["failed"] += len(found.failed)
    return counts


def read_chunks(model, work: Work, out: Path) -> tuple[dict[str, Stored], dict[str, Failure]]:
    """Put the chunks of all hosts together.

    Args:
      model: that made them: only its fingerprint and width count.
      work: the list that was embedded.
      out: that it was embedded to.

    Returns:
      (galleries by kind, whose vectors are read when they are drawn, and what failed).

    Raises:
      UserError: chunks are missing, damaged, or of another model or list.
    """
    heads, missing = [], []
    for number in range(len(work.chunks)):
        key = _key(model.fingerprint, work.chunk(number))
        head = _head(_path(out, number))
        if head is None or head["key"] != key:
            missing.append(str(number))
        heads.append(head)
    if missing:
        more = ", ..." if len(missing) > 10 else ""
        raise UserError(
            f"{len(missing)} of {len(work.chunks)} chunks are not there yet, or are of another "
            f"model or list: {', '.join(missing[:10])}{more}; run their shards"
        )

    def parts(kind: str) -> Iterator[np.ndarray]:
        for number, head in enumerate(heads):
            if work.chunks[number][0] == kind:
                path = _path(out, number).with_suffix(files.SUFFIX)
                yield files.read_matrix(path, len(head["ids"]), model.width)

    galleries = {}
    for kind in KINDS:
        own = [head for head, (of, _, _) in zip(heads, work.chunks, strict=True) if of == kind]
        ids, sources, stamps = (
            [value for head in own for value in head[field]]
            for field in ("ids", "sources", "stamps")
        )
        galleries[kind] = Stored(ids, sources, [_stamp(x) for x in stamps], parts(kind))
    failed = {
        name: Failure(why, source, _stamp(stamp))
        for head in heads
        for name, (why, source, stamp) in head["failed"].items()
    }
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


def _write(path: Path, key: str, found: Embedded) -> None:
    gallery = found.gallery
    # The mark of an older chunk must not stand beside the new one's vectors.
    path.unlink(missing_ok=True)
    matrix = path.with_suffix(files.SUFFIX)
    files.write_matrix(matrix, [gallery.vectors], len(gallery), gallery.vectors.shape[1])
    content = dict(
        key=key,
        ids=list(gallery.ids),
        sources=list(gallery.sources),
        stamps=list(gallery.stamps),
        failed=found.failed,
    )
    files.write_head(path, FORMAT, content)
