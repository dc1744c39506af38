"""The items of an index: files or content in memory, and why one of them could not be read."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sir_jax.errors import BadMedia, UserError
from sir_jax.index.folder import Passed, Stamp, kind_of_file, kinds_of_files, scan, stamp_of
from sir_jax.index.gallery import IN_ROOT
from sir_jax.index.query import OTHER, Cut, Hit, kind_of_content, rerank_hits, whole
from sir_jax.inference.inputs import load_picture, load_speech


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

    @property
    def label(self) -> str:
        """Return the name in messages: the path of a file, the id of content in memory."""
        return self.id if self.source is None else str(self.content)


class Failure(NamedTuple):
    """An item that could not be read.

    Attributes:
      reason: the line for people.
      source: its file, as in `Gallery.sources`.
      stamp: its file's stamp.
      fault: the word for programs, as in `BadMedia`; 'error' where there is none.
    """

    reason: str
    source: str | None
    stamp: Stamp | None
    fault: str = "error"


def read_failure(values: Sequence) -> Failure:
    """Return a `Failure` of JSON's values; those of older files lack the fault."""
    why, source, stamp, *fault = values
    return Failure(why, source, None if stamp is None else Stamp(*stamp), *fault)


def items_of_source(
    source: str | os.PathLike | Iterable[str | os.PathLike], skip: Path | None = None
) -> tuple[Path | None, list[Item], dict[str, Passed]]:
    """Make items of a folder or of a list of files.

    Args:
      source: a folder, or paths of files.
      skip: a subfolder that is left out.

    Returns:
      (the folder, None for a list; the items; id -> `Passed` of the folder's other files).

    Raises:
      UserError: the folder does not exist or holds nothing to index, or a file is of neither kind.
    """
    if not isinstance(source, str | os.PathLike):
        return None, [item_of_path(os.fspath(path)) for path in source], {}
    root, found = Path(source).absolute(), scan(source, skip=skip)
    if not found.stamps:
        raise UserError(f"{source} holds no picture and no recording; give another folder")
    return root, items_in_folder(root, found.stamps, found.stamps), found.passed


def items_in_folder(root: Path, stamps: dict[str, Stamp], ids: Iterable[str]) -> list[Item]:
    """Make items of files in a folder.

    Args:
      root: the folder.
      stamps: the stamp of each file in the folder, by id.
      ids: the ids of the items to make.
    """
    ids = list(ids)
    return [
        # A file that has become something else since the scan fails when it is read.
        Item(name, kind or "image", root / name, IN_ROOT, stamps[name])
        for name, kind in zip(ids, kinds_of_files(root, ids), strict=True)
    ]


def item_of_path(path: str, name: str | None = None) -> Item:
    """Make an item of one file.

    Args:
      path: a picture or a recording.
      name: the item's id; None for the path as it is given.

    Raises:
      UserError: neither what it holds nor its suffix is a picture's or a recording's.
    """
    if (kind := kind_of_file(path)) is None:
        raise UserError(
            f"{path}: its suffix is neither a picture's nor a recording's, and what it holds is "
            "neither; leave it out"
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


def rerank_readable(
    model,
    query,
    kind: str,
    hits: Sequence[Hit],
    path_of: Callable[[str], Path],
    cut: Cut = whole,
) -> list[Hit]:
    """Order hits as `rerank_hits` does; those whose file cannot be read come last, unmatched.

    Args:
      model: a `Retriever` with a matching head.
      query: a recording or a picture.
      kind: the query's kind, 'speech' or 'image'.
      hits: items of the other kind.
      path_of: returns the file of an id.
      cut: returns the part of it that is matched.

    Raises:
      UserError: the model has no matching head, the query cannot be read, or an item has no file.
    """
    present = [hit for hit in hits if path_of(hit.id).is_file()]
    try:
        ranked = rerank_hits(model, query, kind, present, path_of, cut)
    except BadMedia:
        readable = [hit for hit in present if _can_be_read(path_of(hit.id), OTHER[kind])]
        if len(readable) == len(present):
            raise  # it is the query
        ranked = rerank_hits(model, query, kind, readable, path_of, cut)
    done = {hit.id for hit in ranked}
    return ranked + [hit for hit in hits if hit.id not in done]


def _can_be_read(path: Path, kind: str) -> bool:
    try:
        load_picture(0, path) if kind == "image" else load_speech(0, path)
    except Exception:  # noqa: BLE001
        return False
    return True
