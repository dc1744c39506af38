"""A folder of pictures and recordings: what is in it, and what changed since it was looked at.

An item's id is its path relative to the folder, with forward slashes. Skipped are files of other
suffixes, whatever has a name that starts with a dot (thumbnails, trash, the `._` twins that macOS
leaves on other disks) and links to folders; a link to a file counts as the file.
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
    """What tells that a file changed: its size in bytes, and its time of change in ns."""

    size: int
    mtime_ns: int


class Changes(NamedTuple):
    """Ids of what is new, what changed and what is gone, each sorted."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Update(NamedTuple):
    """What an update did: ids, each sorted.

    Attributes:
      added, changed: that were embedded.
      removed: whose files are gone.
      failed: new or changed, but they cannot be read.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    failed: list[str]


def kind_of(path: str | os.PathLike) -> str | None:
    """Return 'image' or 'speech' by a path's suffix; None for another."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "speech" if suffix in SPEECH_SUFFIXES else None


def stamp_of(path: str | os.PathLike) -> Stamp | None:
    """Return a file's stamp; None where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


def scan_folder(root: str | os.PathLike) -> dict[str, Stamp]:
    """Find the pictures and recordings of a folder and of the folders in it.

    Args:
      root: where to look.

    Returns:
      id -> stamp, sorted by id.

    Raises:
      UserError: it is no folder, or one in it cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give one that holds pictures or recordings")
    found = {}
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            # A link may lead nowhere, and a file may go while this runs.
            if not name.startswith(".") and kind_of(name) and os.path.isfile(path):
                if stamp := stamp_of(path):
                    found[Path(path).relative_to(root).as_posix()] = stamp
    return dict(sorted(found.items()))


def compare(before: Mapping[str, Stamp], now: Mapping[str, Stamp]) -> Changes:
    """Return what changed between two looks at a folder.

    Args:
      before: id -> stamp.
      now: likewise.
    """
    return Changes(
        sorted(now.keys() - before.keys()),
        sorted(id for id in now.keys() & before.keys() if tuple(now[id]) != tuple(before[id])),
        sorted(before.keys() - now.keys()),
    )


def _refuse(error: OSError) -> None:
    # Left out silently, its files would count as removed.
    raise UserError(f"{error.filename} cannot be read ({error.strerror}); allow it or move it")
