"""Files and folders that appear whole or not at all, whenever the process is killed.

The new content is written beside its place, under a name of its own, and takes the final name in
one move. A kill before that leaves what was there before, and a part that the next write replaces.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What the name of a file ends with until it is whole.
PART = ".part"


@contextlib.contextmanager
def whole_file(path: Path, sync: bool = False, own: bool = False) -> Iterator[Path]:
    """Yield where to write a file, which takes its name when the `with` block ends without error.

    Args:
      path: of the file; what lies there is replaced. A path of `etils.epath` in a bucket will do.
      sync: wait until the bytes are on the disk. Without it a crash of the machine, unlike one of
        the process, may leave the new name on bytes that were never written.
      own: give the part a name that no other process uses, for files that two may write at once.

    Yields:
      A path in the same folder. Its suffix is not the file's.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}" if own else f"{path.name}{PART}")
    try:
        yield part
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if sync:
        with part.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(path)


def write_text(path: Path, text: str, own: bool = False) -> None:
    """Write a text file whole or not at all; see `whole_file`."""
    with whole_file(path, own=own) as part:
        part.write_text(text)


def write_json(path: Path, content: Any, indent: int | None = 2, own: bool = False) -> None:
    """Write plain data as JSON and a line break, whole or not at all; see `whole_file`."""
    write_text(path, json.dumps(content, indent=indent) + "\n", own=own)


@contextlib.contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder, which takes its name when the `with` block ends without error.

    Args:
      path: of the folder; those above it are made where missing.
      replace: put it in the place of another, which goes only once the new one stands.

    Yields:
      A folder beside `path`. It is gone after an error.

    Raises:
      OSError: it cannot be made, or something lies at `path` and `replace` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    old = part.with_suffix(".old")
    shutil.rmtree(part, ignore_errors=True)  # of a killed process that had the same number
    part.mkdir()
    try:
        yield part
        if replace and path.exists():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
