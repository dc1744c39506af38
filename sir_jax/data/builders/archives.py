"""Extract a publisher's archives, from a local folder or a bucket, safely and resumably."""

import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from sir_jax.data.builders.recordings import Archive
from sir_jax.data.builders.records import progress
from sir_jax.errors import UserError
from sir_jax.runtime.files import write_json

# The package through which `etils.epath` reads each URL scheme.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}

# The name of a link, beside the members extracted here, to a folder that the user has extracted.
GIVEN = "given"
_STATES = ".archives"
_BLOCK = 1 << 20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of archives: a local path, or a URL that `etils.epath` reads."""

    root: str

    @property
    def local(self) -> Path | None:
        """Return the path of a local folder; None for a URL."""
        return None if "://" in self.root else Path(self.root).expanduser()

    def check(self) -> None:
        """Check the folder.

        Raises:
          UserError: the folder does not exist, or the URL's scheme is unknown.
        """
        if self.local is not None:
            if not self.local.is_dir():
                raise UserError(f"archives {self.root!r}: no such folder")
        elif self.root.partition("://")[0] not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise UserError(f"archives {self.root!r}: give a folder, or a URL of {known}")

    def stat(self, name: str) -> tuple[int, int] | None:
        """Return an archive's size in bytes and its modification time; None if it is not there."""
        if self.local is not None:
            path = self.local / name
            if not path.is_file():
                return None
            info = path.stat()
            return info.st_size, info.st_mtime_ns
        path = self._remote(lambda epath: epath.Path(self.root) / name)
        if not self._remote(lambda epath: path.exists()):
            return None
        info = self._remote(lambda epath: path.stat())
        return info.length, int(info.mtime)

    def open(self, name: str) -> BinaryIO:
        """Open an archive for reading bytes."""
        if self.local is not None:
            return (self.local / name).open("rb")
        return self._remote(lambda epath: (epath.Path(self.root) / name).open("rb"))

    def _remote(self, call: Callable[[Any], Any]) -> Any:
        scheme = self.root.partition("://")[0]
        try:
            from etils import epath

            return call(epath)
        except ImportError as error:
            raise UserError(
                f"archives {self.root!r}: {error}; pip install {SCHEMES[scheme]}"
            ) from None
        # Each remote file system has its own exceptions.
        except Exception as error:
            raise UserError(
                f"archives {self.root!r}: cannot be read ({type(error).__name__}: {error})"
            ) from None


def gather(archives: tuple[Archive, ...], source: Source, folder: Path) -> tuple[Path, dict]:
    """Extract the archives of a corpus, except those that the user has extracted already.

    A call that was killed is resumed.

    Args:
      archives: the archives of a layout.
      source: the user's folder of archives, packed or extracted.
      folder: folder to extract into.

    Returns:
      The folder to plan the corpus from, and for each archive that was extracted here its name ->
      {'size': in bytes, 'sha256': of the file}.

    Raises:
      UserError: an archive is missing or damaged, or has a member that is unsafe to extract.
    """
    source.check()
    given, present, missing = False, {}, []
    for archive in archives:
        stamp = source.stat(archive.name)
        if source.local is not None and is_extracted(archive, source.local):
            given = True
        elif stamp is not None:
            present[archive.name] = (archive, stamp)
        elif (done := _read_state(folder, archive.name)) and done.get("sha256"):
            present[archive.name] = (archive, (done["size"], done["time"]))
        elif not archive.optional:
            missing.append(archive)
    if missing:
        names = "; ".join(f"{archive.name} from {archive.url}" for archive in missing)
        raise UserError(f"archives {source.root!r}: put there, packed or unpacked: {names}")
    link = folder / GIVEN
    link.unlink(missing_ok=True)
    if not present:
        return source.local.resolve(), {}
    folder.mkdir(parents=True, exist_ok=True)
    seen = {
        name: extract(source, archive, stamp, folder) for name, (archive, stamp) in present.items()
    }
    if given:
        link.symlink_to(source.local.resolve(), target_is_directory=True)
    return folder.resolve(), seen


def is_extracted(archive: Archive, folder: Path) -> bool:
    """Tell whether a folder, or a folder in it, holds the contents of an archive."""
    names = (archive.holds, *archive.also_holds)
    if any((folder / name).exists() for name in names):
        return True
    below = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    return any(os.path.exists(os.path.join(parent, name)) for parent in below for name in names)


def extract(source: Source, archive: Archive, stamp: tuple[int, int], folder: Path) -> dict:
    """Extract a tar, tar.gz or zip archive; members that were extracted before are skipped.

    Only regular files and folders are extracted. Other members, and paths that lead out of the
    folder, are errors. Members that macOS adds (`__MACOSX`, `._*`) are ignored.

    Args:
      source: the folder of the archive.
      archive: the archive, with its checksum if its publisher states one.
      stamp: the archive's size and modification time, from `Source.stat`.
      folder: folder to extract into.

    Returns:
      {'size': in bytes, 'sha256': of the file}.

    Raises:
      UserError: the archive is damaged or unsafe, or its checksum is not the published one.
    """
    state = _read_state(folder, archive.name)
    same = state is not None and (state["size"], state["time"]) == stamp
    if same and state["sha256"]:
        return {"size": stamp[0], "sha256": state["sha256"]}
    # Without this record, members of an older file of the same name would pass for this one's.
    _write_state(folder, archive.name, stamp, "")
    into = _Folder(folder, archive.name, resume=same)
    try:
        with source.open(archive.name) as stream:
            magic = stream.read(4)
        is_zip = magic[:2] == b"PK"
        digest = ""
        if is_zip or archive.sha256:
            digest = _hash(source, archive.name, stamp[0])
            _check_digest(archive, digest)
        if is_zip:
            _extract_zip(source, archive.name, into)
        else:
            digest = _extract_tar(source, archive.name, stamp[0], magic, into)
    except _DAMAGE as error:
        raise UserError(
            f"{archive.name}: damaged, truncated or no tar or zip archive "
            f"({' '.join(str(error).split()) or type(error).__name__}) after {into.count} members; "
            "download it again"
        ) from None
    except (UserError, OSError):
        raise
    # Each remote file system has its own exceptions.
    except Exception as error:
        if source.local is not None:
            raise
        raise UserError(
            f"{archive.name}: reading it stopped ({type(error).__name__}: {error}); run the same "
            "command again to go on"
        ) from None
    _write_state(folder, archive.name, stamp, digest)
    return {"size": stamp[0], "sha256": digest}


class _Folder:
    """The folder that the members of one archive are extracted into."""

    def __init__(self, folder: Path, archive: str, resume: bool):
        self._folder, self._archive, self._resume = folder, archive, resume
        # One for all members, apart: beside them it might have the name of one.
        self._scratch = folder / _STATES / "member.partial"
        self._safe: set[Path] = {folder}
        self.count = 0

    def refuse(self, name: str, why: str) -> UserError:
        """Return the error for a member that must not be extracted."""
        return UserError(
            f"{self._archive}: its member {name!r} {why}, which no published archive holds; if you "
            "trust it, unpack it yourself and give that folder instead"
        )

    def put(self, name: str, size: int | None, stream: Callable[[], IO[bytes]]) -> None:
        """Write one member unless it exists already; `size` None means a folder."""
        target = self._target(name)
        if target is None:
            return
        self.count += 1
        if size is None:
            target.mkdir(parents=True, exist_ok=True)
            return
        self._make_parent(target.parent, name)
        if self._resume and _has_size(target, size):
            return
        with stream() as member, self._scratch.open("wb") as out:
            shutil.copyfileobj(member, out, _BLOCK)
            written = out.tell()
        if written != size:
            raise EOFError(f"{name!r} has {written} of {size} bytes")
        os.replace(self._scratch, target)

    def _target(self, name: str) -> Path | None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise self.refuse(name, "leads out of the folder")
        if any(part == "__MACOSX" or part.startswith("._") for part in path.parts):
            return None
        if path.parts[:1] in ((_STATES,), (GIVEN,)):
            raise self.refuse(name, "has a reserved name")
        return self._folder / path if path.parts else None

    def _make_parent(self, parent: Path, name: str) -> None:
        if parent in self._safe:
            return
        self._make_parent(parent.parent, name)
        if parent.is_symlink():
            raise self.refuse(name, "lies behind a link")
        parent.mkdir(exist_ok=True)
        self._safe.add(parent)


def _extract_zip(source: Source, name: str, into: _Folder) -> None:
    with source.open(name) as stream, zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        total = sum(member.compress_size for member in members)
        with progress(total, "B", f"extract {name}", unit_scale=True) as bar:
            for member in members:
                # The upper 16 bits are the Unix mode; Windows programs write 0.
                file_type = stat.S_IFMT(member.external_attr >> 16)
                if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise into.refuse(member.filename, "is a link or a device")
                size = None if member.is_dir() else member.file_size
                into.put(member.filename, size, lambda member=member: archive.open(member))
                bar.update(member.compress_size)


def _extract_tar(source: Source, name: str, size: int, magic: bytes, into: _Folder) -> str:
    """Extract in one pass over all bytes; return their checksum."""
    with (
        progress(size, "B", f"extract {name}", unit_scale=True) as bar,
        source.open(name) as stream,
    ):
        raw = _Reader(stream, bar.update)
        # tarfile's own gzip stream checks no checksum and does not notice a truncated file.
        plain = raw
        if magic[:2] == b"\x1f\x8b":
            plain = _Reader(gzip.GzipFile(fileobj=raw), hashed=False)
        with tarfile.open(fileobj=plain, mode="r|") as archive:
            for member in archive:
                if not (member.isreg() or member.isdir()):
                    raise into.refuse(member.name, "is a link or a device")
                size = None if member.isdir() else member.size
                into.put(member.name, size, lambda member=member: archive.extractfile(member))
        for reader in (plain, raw):
            while reader.read(_BLOCK):
                pass
        if plain.tail.strip(b"\0") or not plain.tail:
            raise EOFError("the end mark is missing")
        return raw.digest.hexdigest()


class _Reader:
    """A stream that hashes and counts the bytes that are read from it."""

    def __init__(self, stream: BinaryIO, report=lambda size: None, hashed: bool = True):
        self._stream, self._report, self._hashed = stream, report, hashed
        self.digest = hashlib.sha256()
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        data = self._stream.read(size)
        if self._hashed:
            self.digest.update(data)
        # A tar archive ends in two blocks of 512 zeros.
        self.tail = (self.tail + data)[-512:] if len(data) < 512 else data[-512:]
        self._report(len(data))
        return data


def _hash(source: Source, name: str, size: int) -> str:
    with progress(size, "B", f"check {name}", unit_scale=True) as bar, source.open(name) as stream:
        reader = _Reader(stream, bar.update)
        while reader.read(_BLOCK):
            pass
        return reader.digest.hexdigest()


def _check_digest(archive: Archive, digest: str) -> None:
    if archive.sha256 and digest != archive.sha256:
        raise UserError(
            f"{archive.name}: its sha256 is {digest}, the publisher's {archive.sha256}; "
            "download it again"
        )


def _has_size(path: Path, size: int) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size == size


def _read_state(folder: Path, name: str) -> dict | None:
    try:
        return json.loads((folder / _STATES / f"{name}.json").read_text())
    except FileNotFoundError:
        return None


def _write_state(folder: Path, name: str, stamp: tuple[int, int], digest: str) -> None:
    path = folder / _STATES / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"size": stamp[0], "time": stamp[1], "sha256": digest}, indent=None)
