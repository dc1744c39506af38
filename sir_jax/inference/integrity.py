"""Whether a committed checkpoint still has all of its bytes.

A commit marker tells that everything was written, not that it is there: a disk that lost its power
or ran full in the background, a quota or a copy that was cut short leave files that end early. Each
array's metadata says where its bytes lie, so that the files' sizes tell, and nothing is read.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tensorstore as ts

from sir_jax.errors import UserError
from sir_jax.runtime.console import say

# Items of arrays, and files of JSON, that every step has; and an item that some have.
ITEMS, MORE_ITEMS = ("params", "train"), ("order",)
RECORDS = ("_CHECKPOINT_METADATA", "meta/metadata", *(f"{item}/_METADATA" for item in ITEMS))
# Not where NumPy arrays were saved.
MORE_RECORDS = ("_sharding", "array_metadatas/*")


def find_faults(folder: Path, steps: Iterable[int]) -> dict[int, str]:
    """Return what checkpoints lack, by step; those that are whole are left out."""
    found = {step: find_fault(folder / str(step)) for step in steps}
    return {step: fault for step, fault in found.items() if fault}


def tell_faults(folder: Path, faults: Mapping[int, str], last: int | None) -> None:
    """Say which checkpoints after the newest whole one cannot be used.

    Args:
      folder: of the checkpoints.
      faults: from `find_faults`.
      last: the newest whole one's step, None where there is none.

    Raises:
      UserError: some are damaged and none is whole.
    """
    lost = sorted((step for step in faults if step > (last or 0)), reverse=True)
    told = "; ".join(f"checkpoint {n} of {folder} is not whole: {faults[n]}" for n in lost)
    if lost and last is None:
        raise UserError(f"{told}; there is no other; choose another workdir to begin anew")
    if lost:
        say(f"{told}; goes on at checkpoint {last}")


def find_fault(folder: Path) -> str | None:
    """Find what a step's folder lacks.

    Args:
      folder: of one checkpoint.

    Returns:
      A phrase about the first file that is missing or ends early; None where there is none.
    """
    items = (*ITEMS, *(item for item in MORE_ITEMS if (folder / item).exists()))
    more = (path for item in items for name in MORE_RECORDS for path in (folder / item).glob(name))
    for path in (*(folder / name for name in RECORDS), *sorted(more)):
        if problem := _record_fault(path):
            return f"{path.relative_to(folder)} cannot be read ({problem})"
    for item in items:
        try:
            ends = stored_ends(folder / item)
        # TensorStore has no type of its own for what it cannot read.
        except Exception as error:  # noqa: BLE001
            return f"{item} cannot be read ({str(error).splitlines()[0][:160]})"
        for name, end in sorted(ends.items()):
            # The one that works on any file system; `epath` and `pathlib` name the size otherwise.
            try:
                with (folder / item / name).open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
            except OSError as error:
                return f"{item}/{name} cannot be read ({error.strerror or error})"
            if size < end:
                return f"{item}/{name} has {size} of {end} bytes"
    return None


def _record_fault(path: Path) -> str | None:
    """Say why a file of JSON cannot be read; None where it can."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return str(error)
    return None


def stored_ends(folder: Path) -> dict[str, int]:
    """Return up to which byte each file of an item is used, by its path in the item's folder.

    Args:
      folder: an OCDBT database, as Orbax writes one for each item.
    """
    url = str(folder) if "://" in str(folder) else folder.resolve().as_uri()
    base = ts.KvStore.open(url + "/").result()
    ends: dict[str, int] = {}
    waiting, seen = [None], set()
    while waiting:
        for reference in _references(ts.ocdbt.dump(base, waiting.pop()).result()):
            # TYPE:BASE:NAME:OFFSET:LENGTH; the data of another process has another base.
            kind, parent, name, offset, length = reference.split(":")
            path = unquote(parent + name)
            ends[path] = max(ends.get(path, 0), int(offset) + int(length))
            if kind != "value" and reference not in seen:
                seen.add(reference)
                waiting.append(reference)
    return ends


def _references(node: Any) -> Iterator[str]:
    """Yield where a dumped manifest or node says that other nodes and values lie."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("location", "indirect_value"):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
