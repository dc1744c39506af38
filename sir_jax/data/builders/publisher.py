"""Read what a publisher ships: find its files however they were unpacked, and gather a plan."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sir_jax.data.builders.recordings import Plan, PlannedCaption, PlannedImage, Problem
from sir_jax.errors import UserError


def is_junk(name: str) -> bool:
    """Say whether a file or folder is what macOS or a file browser left behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def subfolders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and what lies up to `depth` below it, shallow before deep, in name order."""
    level = [folder]
    for remaining in range(depth, -1, -1):
        yield from level
        if remaining:
            # Of a folder with 80,000 pictures, scandir knows without a look at each.
            level = [
                parent / child.name
                for parent in level
                for child in sorted(os.scandir(parent), key=lambda entry: entry.name)
                if not is_junk(child.name) and child.is_dir()
            ]


def find(
    folder: Path, names: Iterable[str], what: str, depth: int = 4, holding: Iterable[str] = ()
) -> Path:
    """Return the shallowest file or folder of one of these names.

    Args:
      folder: of the extracted archives.
      names: the spellings in use, the likeliest first; paths of several parts are fine.
      what: the archive that holds it, for the error.
      depth: how many folders deep to look.
      holding: names of which the folder must hold one, because archives that are unpacked in
        folders of their own name look alike; any folder does where empty.

    Raises:
      UserError: there is none.
    """
    names, holding = tuple(names), tuple(holding)
    for parent in subfolders(folder, depth):
        for name in names:
            found = parent / name
            # Unpacked into a folder of its own name: val2014/val2014.
            while (found / found.name).is_dir():
                found = found / found.name
            if found.exists() and (not holding or any((found / n).exists() for n in holding)):
                return found
    content = f" and holds {holding[0]!r} and the like" if holding else ""
    raise UserError(
        f"{str(folder)!r}: nothing below it is called {' or '.join(map(repr, names))}{content}; "
        f"unpack {what} there"
    )


def find_root(folder: Path, paths: Iterable[str], what: str, depth: int = 8) -> Path:
    """Return the shallowest folder below which published paths begin.

    One folder that is there is enough: that files are missing is the builder's to report.

    Args:
      folder: of the extracted archives.
      paths: published paths of files.
      what: the archive that holds them, for the error.
      depth: how many folders deep to look.

    Raises:
      UserError: there is none.
    """
    parents = sorted({path.rpartition("/")[0] for path in paths})
    for root in subfolders(folder, depth):
        if any((root / parent).is_dir() for parent in parents):
            return root
    example = parents[0] if parents else "anything"
    raise UserError(
        f"{str(folder)!r}: no folder below it holds {example!r} and the like; unpack {what} there"
    )


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbers (from 1) and the text of lines that are not blank, stripped."""
    # Windows writes a byte order mark and \r\n.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_entries(path: Path, field: str) -> list:
    """Return the list that a JSON file holds in one field of its object.

    Raises:
      UserError: not JSON, or no such list.
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
    """Return a path that stays below the folder it is joined to, '' where it is none."""
    # Called a million times: pathlib would take a minute.
    if not isinstance(value, str) or value[:1] == "/" or "\\" in value or "\0" in value:
        return ""
    parts = [part for part in value.split("/") if part not in ("", ".")]
    return "" if ".." in parts else "/".join(parts)


def word(entry: dict, field: str) -> str:
    """Return a field as stripped text, '' where the entry lacks it."""
    value = entry.get(field)
    return str(value).strip() if isinstance(value, (str, int)) else ""


@dataclasses.dataclass
class _Image:
    key: str
    split: str
    path: str
    captions: list[PlannedCaption] = dataclasses.field(default_factory=list)


class Collector:
    """Gather recordings under their pictures; the first of two with the same key stays.

    Args:
      folder: of the extracted archives; problems and plans name paths below it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[Problem] = []
        self._images: dict[int, _Image] = {}
        self._keys: set[str] = set()
        self._caption_ids: set[int] = set()

    def below(self, path: Path) -> str:
        """Return a path as it reads below the folder."""
        return path.relative_to(self.folder).as_posix()

    def prefix(self, folder: Path) -> str:
        """Return what to put before a path in a folder so that it reads as `below` says."""
        name = self.below(folder)
        return "" if name == "." else f"{name}/"

    def leave_out(self, path: str, reason: str, detail: str, split: str = "", key: str = ""):
        """Note something that cannot be used; fields as in `Problem`."""
        self.problems.append(Problem(path, reason, detail, split, key))

    def add(self, image_id: int, key: str, split: str, image: str, caption: PlannedCaption):
        """Add a recording, or note that it is there already; fields as in `PlannedImage`."""
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
        """Say whether a picture has a recording."""
        return image_id in self._images

    def plan(self) -> Plan:
        """Return everything in order of ids, problems as they were met."""
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
