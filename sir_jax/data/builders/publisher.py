"""Tools for layouts: find a publisher's files, read its metadata, collect a plan."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sir_jax.data.builders.recordings import Plan, PlannedCaption, PlannedImage, Problem
from sir_jax.errors import UserError


def is_junk(name: str) -> bool:
    """Tell whether a file or folder is hidden, or added by macOS or by a file browser."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def subfolders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and its sub-folders to a depth, shallow ones first, sorted by name."""
    level = [folder]
    for remaining in range(depth, -1, -1):
        yield from level
        if remaining:
            # A folder can have 80,000 images: scandir knows that they are files without a stat.
            level = [
                parent / child.name
                for parent in level
                for child in sorted(os.scandir(parent), key=lambda entry: entry.name)
                if not is_junk(child.name) and child.is_dir()
            ]


def find(
    folder: Path, names: Iterable[str], archive: str, depth: int = 4, holding: Iterable[str] = ()
) -> Path:
    """Return the shallowest file or folder that has one of the names.

    Args:
      folder: folder of the extracted archives.
      names: spellings in use, the most likely first; may be paths such as 'a/b'.
      archive: name of the archive that contains it, for the error message.
      depth: number of folder levels to search.
      holding: names of which the result must hold at least one; empty for any. Needed where an
        archive may have been unpacked into a folder of the same name.

    Raises:
      UserError: nothing has one of the names.
    """
    names, holding = tuple(names), tuple(holding)
    for parent in subfolders(folder, depth):
        for name in names:
            path = parent / name
            # Unpacked into a folder of the same name: val2014/val2014.
            while (path / path.name).is_dir():
                path = path / path.name
            if path.exists() and (not holding or any((path / n).exists() for n in holding)):
                return path
    content = f" and holds {holding[0]!r} and the like" if holding else ""
    raise UserError(
        f"{str(folder)!r}: nothing below it is called {' or '.join(map(repr, names))}{content}; "
        f"unpack {archive} there"
    )


def find_root(folder: Path, paths: Iterable[str], archive: str, depth: int = 8) -> Path:
    """Return the shallowest folder that published paths are relative to.

    It is enough that the folder of one path exists: the builder reports missing files.

    Args:
      folder: folder of the extracted archives.
      paths: published paths of files.
      archive: name of the archive that contains them, for the error message.
      depth: number of folder levels to search.

    Raises:
      UserError: there is no such folder.
    """
    parents = sorted({path.rpartition("/")[0] for path in paths})
    for root in subfolders(folder, depth):
        if any((root / parent).is_dir() for parent in parents):
            return root
    example = parents[0] if parents else "anything"
    raise UserError(
        f"{str(folder)!r}: no folder below it holds {example!r} and the like; "
        f"unpack {archive} there"
    )


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, stripped text) for each line that is not blank."""
    # Files written on Windows may have a byte order mark and \r\n.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_entries(path: Path, field: str) -> list:
    """Return the list in one field of the object that a JSON file holds.

    Raises:
      UserError: the file is no JSON object, or the field is no list.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))[field]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no JSON object with a list {field!r} ({type(error).__name__}); "
            "unpack its archive again"
        ) from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: {field!r} is not a list; unpack its archive again")
    return entries


def published_path(value) -> str:
    """Return a published path normalised; '' if it is no path, or leads out of its folder."""
    # Not pathlib, which takes a minute for a million calls.
    if not isinstance(value, str) or value[:1] == "/" or "\\" in value or "\0" in value:
        return ""
    parts = [part for part in value.split("/") if part not in ("", ".")]
    return "" if ".." in parts else "/".join(parts)


class RealPaths:
    """Where files lie, links followed: `./a.png`, `b/../a.png` and a link to it are one file.

    Args:
      root: folder that paths are relative to.
    """

    def __init__(self, root: Path):
        self._root = os.path.realpath(root)
        # There are far fewer folders than files, and to follow each costs many system calls.
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """Return where a file lies, whether or not it exists."""
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(os.path.join(self._root, path))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(os.path.join(self._root, folder))
        file = os.path.join(self._folders[folder], name)
        return os.path.realpath(file) if os.path.islink(file) else file


def word(entry: dict, field: str) -> str:
    """Return a field of a JSON entry as stripped text; '' if the entry lacks it."""
    value = entry.get(field)
    return str(value).strip() if isinstance(value, (str, int)) else ""


@dataclasses.dataclass
class _Image:
    key: str
    split: str
    path: str
    captions: list[PlannedCaption] = dataclasses.field(default_factory=list)


class Collector:
    """Collects recordings by image, and problems; of recordings with one key it keeps the first.

    Args:
      folder: folder of the extracted archives; paths in plans and problems are relative to it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[Problem] = []
        self._images: dict[int, _Image] = {}
        self._keys: set[str] = set()
        self._caption_ids: set[int] = set()

    def below(self, path: Path) -> str:
        """Return a path relative to the folder."""
        return path.relative_to(self.folder).as_posix()

    def prefix(self, folder: Path) -> str:
        """Return the prefix that makes a path in a sub-folder relative to the folder."""
        name = self.below(folder)
        return "" if name == "." else f"{name}/"

    def leave_out(self, path: str, reason: str, detail: str, split: str = "", key: str = ""):
        """Add a problem; the arguments are the fields of `Problem`."""
        self.problems.append(Problem(path, reason, detail, split, key))

    def add(self, image_id: int, key: str, split: str, image: str, caption: PlannedCaption):
        """Add a recording, or a problem if its key or number was added before.

        Args:
          image_id: id of its image.
          key: published name of its image.
          split: split of its image.
          image: path of its image.
          caption: the recording.
        """
        if caption.key in self._keys:
            detail = "another recording has the same key"
            self.leave_out(caption.audio, "duplicate id", detail, split, caption.key)
            return
        if caption.caption_id in self._caption_ids:
            detail = "another recording has the same picture and number"
            self.leave_out(caption.audio, "duplicate id", detail, split, caption.key)
            return
        self._keys.add(caption.key)
        self._caption_ids.add(caption.caption_id)
        self._images.setdefault(image_id, _Image(key, split, image)).captions.append(caption)

    def has(self, image_id: int) -> bool:
        """Tell whether an image has a recording."""
        return image_id in self._images

    def plan(self) -> Plan:
        """Return the plan, sorted by ids, with problems in the order of their addition."""
        images = tuple(
            PlannedImage(
                image_id,
                image.key,
                image.split,
                image.path,
                tuple(sorted(image.captions, key=lambda caption: caption.caption_id)),
            )
            for image_id, image in sorted(self._images.items())
        )
        return Plan(images, tuple(self.problems))
