"""Scan a folder of pictures and recordings, and find what changed since the last scan.

An item's id is its path relative to the folder, with forward slashes. The scan skips files with
other suffixes, links to folders, and every name that starts with a dot (thumbnails, trash, the `._`
files that macOS writes on other disks). A link to a file counts as the file.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sir_jax.data.media.sound_folder import SUFFIXES as SPEECH_SUFFIXES
from sir_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
KINDS = ("image", "speech")


class Stamp(NamedTuple):
    """Size in bytes and time of change in ns; a file whose stamp differs has changed."""

    size: int
    mtime_ns: int


class Changes(NamedTuple):
    """Ids of the files that are new, that changed and that are gone, each list sorted."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Update(NamedTuple):
    """The outcome of `Index.update`: four sorted lists of ids.

    Attributes:
      added: new files that were embedded.
      changed: changed files that were embedded again.
      removed: files that are gone.
      failed: new or changed files that cannot be read.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    failed: list[str]


def kind_of(path: str | os.PathLike) -> str | None:
    """Return 'image' or 'speech' according to a path's suffix; None for any other suffix."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "speech" if suffix in SPEECH_SUFFIXES else None


def stamp_of(path: str | os.PathLike) -> Stamp | None:
    """Return a file's stamp; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


def scan_folder(root: str | os.PathLike) -> dict[str, Stamp]:
    """Find the pictures and recordings in a folder and its subfolders.

    Args:
      root: the folder.

    Returns:
      id -> stamp, sorted by id.

    Raises:
      UserError: `root` is not a folder, or a subfolder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give one that holds pictures or recordings")
    stamps = {}
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            # A link may be broken, and a file may be deleted during the scan.
            if not name.startswith(".") and kind_of(name) and os.path.isfile(path):
                if stamp := stamp_of(path):
                    stamps[Path(path).relative_to(root).as_posix()] = stamp
    return dict(sorted(stamps.items()))


def compare(before: Mapping[str, Stamp], now: Mapping[str, Stamp]) -> Changes:
    """Return what changed between two scans of a folder.

    Args:
      before: id -> stamp at the earlier scan.
      now: id -> stamp at the later scan.

    Example:
      >>> before = {"a.png": Stamp(1, 5), "b.png": Stamp(1, 5)}
      >>> compare(before, {"b.png": Stamp(2, 6), "c.png": Stamp(1, 6)})
      Changes(added=['c.png'], changed=['b.png'], removed=['a.png'])
    """
    return Changes(
        sorted(now.keys() - before.keys()),
        sorted(id for id in now.keys() & before.keys() if tuple(now[id]) != tuple(before[id])),
        sorted(before.keys() - now.keys()),
    )


def _refuse(error: OSError) -> None:
    # If the folder were skipped, its files would count as removed.
    raise UserError(f"{error.filename} cannot be read ({error.strerror}); allow it or move it")
