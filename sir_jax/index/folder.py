"""Scan a folder of pictures and recordings, and find what changed since the last scan.

An item's id is its path relative to the folder, with forward slashes. A link to a file counts as
the file; links to folders are not followed, and names that start with a dot (thumbnails, trash, the
`._` files that macOS writes on other disks) are left out. What a file holds decides, not its
suffix; and every file that is left out is counted.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sir_jax.data.media.sniff import sniff
from sir_jax.data.media.sound_folder import SUFFIXES as SPEECH_SUFFIXES
from sir_jax.data.parallel import GROUP, ordered_map
from sir_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
KINDS = ("image", "speech")

# Why a file is passed over.
HIDDEN = "its name starts with a dot"
BROKEN = "a link to nothing"
LINKED = "a link to a folder"
IRREGULAR = "no regular file"
EMPTY = "an empty file"
VIDEO = "a video"
DRAWING = "a drawing without pixels"
OTHER = "neither a picture nor a recording"
# By the format of `sniff`; what else is of a kind is read, and says itself why it cannot be.
_NEVER = {"video": VIDEO, "svg": DRAWING}


class Stamp(NamedTuple):
    """What tells that a file has changed.

    Attributes:
      size: in bytes.
      mtime_ns: time of change in ns.
      digest: of the content, as `digest_of` gives it; '' where it is not known.
    """

    size: int
    mtime_ns: int
    digest: str = ""

    def fits(self, now: "Stamp") -> bool:
        """Tell whether a file is as it was: by its content where `now` knows it.

        Example:
          >>> Stamp(1, 5, "ab").fits(Stamp(1, 5)), Stamp(1, 5, "ab").fits(Stamp(1, 5, "cd"))
          (True, False)
        """
        return self.digest == now.digest if now.digest else self[:2] == now[:2]


class Passed(NamedTuple):
    """A file that is passed over: why, and its stamp, None where there is none."""

    reason: str
    stamp: Stamp | None


class Scan(NamedTuple):
    """What a folder holds.

    Attributes:
      stamps: id -> stamp of each picture and recording, sorted by id.
      passed: id -> `Passed` of every other file, and of links to folders.
      lost: id -> why, of files that are there and cannot be reached; `passed` has them, too.
      empty: subfolders without any visible entry, such as the place of a drive that is not
        mounted; with a slash at their end.
    """

    stamps: dict[str, Stamp]
    passed: dict[str, Passed]
    lost: dict[str, str]
    empty: list[str]


class Changes(NamedTuple):
    """Ids of the files that are new, that changed and that are gone, each list sorted."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Update(NamedTuple):
    """The outcome of `Index.update`: four sorted lists of ids.

    Attributes:
      added: new files that were embedded, and those that could not be read before.
      changed: changed files that were embedded again.
      removed: files that are gone.
      failed: files that cannot be read.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    failed: list[str]


def kind_of(path: str | os.PathLike) -> str | None:
    """Return 'image' or 'speech' according to a path's suffix; None for any other suffix."""
    suffix = suffix_of(path)
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "speech" if suffix in SPEECH_SUFFIXES else None


def suffix_of(path: str | os.PathLike) -> str:
    """Return the suffix of a path in lower case, with its dot; '' where there is none."""
    return os.path.splitext(os.fspath(path))[1].lower()


def kind_of_file(path: str | os.PathLike) -> str | None:
    """Return 'image' or 'speech' by what a file holds, else by its suffix, else None."""
    try:
        return sniff(path).kind or kind_of(path)
    except (OSError, ValueError):
        return kind_of(path)


def kinds_of_files(root: str | os.PathLike, ids: Iterable[str]) -> list[str | None]:
    """Return `kind_of_file` of each file of a folder."""
    paths = (os.path.join(root, name) for name in ids)
    return list(ordered_map(kind_of_file, paths, GROUP))


def stamp_of(path: str | os.PathLike) -> Stamp | None:
    """Return a file's stamp, without a digest; None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


def digest_of(path: str | os.PathLike) -> str:
    """Return a hash of a file's content, 16 hexadecimal digits; '' if it cannot be read."""
    digest = hashlib.sha256()  # processors have instructions for it
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(1 << 18):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()[:16]


def scan_folder(root: str | os.PathLike) -> dict[str, Stamp]:
    """Return the stamps of the pictures and recordings in a folder, see `scan`."""
    return scan(root).stamps


def scan(
    root: str | os.PathLike,
    known: Mapping[str, Stamp] = {},
    passed: Mapping[str, Passed] = {},
    *,
    skip: Path | None = None,
    checksum: bool = False,
) -> Scan:
    """Find the files in a folder and its subfolders, and tell what to index from the rest.

    Args:
      root: the folder.
      known: stamps of files that are pictures or recordings, from an earlier scan.
      passed: what an earlier scan passed over. Such a file is opened only when it has changed.
      skip: a subfolder that is left out without being counted: the index itself.
      checksum: whether to read the known files, for the digests of their stamps.

    Raises:
      UserError: `root` is not a folder, or a subfolder cannot be read.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder; give one that holds pictures or recordings")
    files, found = _walk(os.fspath(root), skip)
    if checksum:
        names = [name for name in files if name in known]
        paths = (os.path.join(root, name) for name in names)
        for name, digest in zip(names, ordered_map(digest_of, paths), strict=True):
            files[name] = files[name]._replace(digest=digest)
    unclear = []
    for name, stamp in files.items():
        if kind_of(name) or (name in known and known[name].fits(stamp)):
            found.stamps[name] = stamp
        elif name in passed and passed[name].stamp == stamp:
            found.passed[name] = passed[name]
        else:
            unclear.append(name)
    paths = (os.path.join(root, name) for name in unclear)
    for name, reason in zip(unclear, ordered_map(_reason_to_pass, paths, GROUP), strict=True):
        if reason:
            found.passed[name] = Passed(reason, files[name])
        else:
            found.stamps[name] = files[name]
    return found._replace(stamps=dict(sorted(found.stamps.items())))


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
        sorted(id for id in now.keys() & before.keys() if not before[id].fits(now[id])),
        sorted(before.keys() - now.keys()),
    )


def count_by_suffix(reasons: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Count files by reason and suffix, most frequent ones first.

    Args:
      reasons: (id, reason) of each file.

    Example:
      >>> count_by_suffix([("a.txt", "a text"), ("b/c.TXT", "a text"), ("d", "a text")])
      {'a text': {'.txt': 2, '': 1}}
    """
    counts: dict[str, Counter] = {}
    for name, reason in reasons:
        counts.setdefault(reason, Counter())[suffix_of(name)] += 1
    ordered = sorted(counts.items(), key=lambda item: -item[1].total())
    return {reason: dict(counter.most_common()) for reason, counter in ordered}


def links_outside(root: str | os.PathLike, ids: Iterable[str]) -> list[str]:
    """Return which ids are links to files that are not in the folder."""
    inside = os.path.join(os.path.realpath(root), "")
    paths = ((name, os.path.join(root, name)) for name in ids)
    return [
        name
        for name, path in paths
        if os.path.islink(path) and not os.path.realpath(path).startswith(inside)
    ]


def _walk(root: str, skip: Path | None) -> tuple[dict[str, Stamp], Scan]:
    """Return the stamp of each regular file by id, and a `Scan` of what is to be left out."""
    files: dict[str, Stamp] = {}
    found = Scan({}, {}, {}, [])
    skipped = None if skip is None else os.path.realpath(skip)
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        count = 0
        for entry in _entries(folder):
            name = prefix + entry.name
            if entry.name.startswith("."):
                found.passed[name] = Passed(HIDDEN, None)
                continue
            count += 1
            if entry.is_dir(follow_symlinks=False):
                if skipped is None or os.path.realpath(entry.path) != skipped:
                    waiting.append((entry.path, f"{name}/"))
                continue
            try:
                status = entry.stat()
            except OSError as error:
                missing = isinstance(error, FileNotFoundError)
                if missing and not entry.is_symlink():
                    continue  # deleted meanwhile
                reason = BROKEN if missing else f"it cannot be reached ({error.strerror})"
                found.passed[name] = Passed(reason, None)
                found.lost[name] = reason
                continue
            if stat.S_ISREG(status.st_mode):
                files[name] = Stamp(status.st_size, status.st_mtime_ns)
            else:
                linked = stat.S_ISDIR(status.st_mode)
                found.passed[name] = Passed(LINKED if linked else IRREGULAR, None)
        if prefix and not count:
            found.empty.append(prefix)
    return files, found


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        # If the folder were skipped, its files would count as removed.
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); allow it or move it"
        ) from error


def _reason_to_pass(path: str) -> str:
    """Return why a file without a known suffix is passed over; '' for one that is not."""
    try:
        if not os.path.getsize(path):
            return EMPTY
        found = sniff(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if found.format in _NEVER:
        return _NEVER[found.format]
    return "" if found.kind else OTHER
