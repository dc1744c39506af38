"""The files of an index's items, and outlines of its recordings; no request names another file."""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Container
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.data.media.sniff import sniff
from sir_jax.errors import UserError
from sir_jax.index.folder import Stamp, stamp_of

KEPT = 256  # outlines, of a few kB each
# Media types of what is served, by the format of `sniff`.
TYPES = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "avif": "image/avif",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "ogg flac": "audio/ogg",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "mp4": "audio/mp4",
    "aac": "audio/aac",
    "webm": "audio/webm",
}


class Missing(UserError):
    """Raised for an id that the index does not hold, or whose file cannot be served."""


class ItemFiles:
    """Find and read the files of one gallery."""

    def __init__(
        self,
        root: Path | None,
        known: Container[str],
        path_of: Callable[[str], Path],
        noun: str,
        indexed: Callable[[str], Stamp | None] = lambda item: None,
    ):
        """Hold the ids of one gallery.

        Args:
          root: the index's folder; None if the index was not built from a folder.
          known: the ids.
          path_of: returns the file of an id.
          noun: what messages call an item, such as 'picture'.
          indexed: returns the stamp that the file of an id had when it was indexed.
        """
        self.root = None if root is None else Path(root).resolve()
        self.known, self.path_of, self.noun, self.indexed = known, path_of, noun, indexed

    def path(self, item: str) -> Path:
        """Return an item's file.

        A file outside of the index's folder, as a link to one, is served while it is the one that
        was indexed: who can write to the folder cannot have any other file shown.

        Args:
          item: an id from a request, not checked yet.

        Raises:
          Missing: the index does not hold the id, or its file is gone, is neither picture nor
            recording any more, or lies elsewhere and is another one than was indexed.
        """
        if item not in self.known:
            raise Missing(f"the index holds no {self.noun} {item[:80]!r}")
        try:
            path = self.path_of(item)
        except UserError:  # added from memory
            raise Missing(f"{self.noun} {item[:80]!r} has no file") from None
        stamp = stamp_of(path)
        if stamp is None or not path.is_file():
            raise Missing(f"{self.noun} {item[:80]!r} is gone; run `sir-jax index` again")
        inside = self.root is not None and path.resolve().is_relative_to(self.root)
        was = self.indexed(item)
        if not inside and (was is None or not was.fits(stamp)):
            raise Missing(
                f"{self.noun} {item[:80]!r} is no file of the index's folder, nor what was "
                "indexed; run `sir-jax index` again"
            )
        if format_of(path) is None:
            raise Missing(f"{self.noun} {item[:80]!r} is none any more; run `sir-jax index` again")
        return path

    def read(self, item: str, most: int) -> bytes:
        """Return the contents of an item's file.

        Args:
          item: an id from a request, not checked yet.
          most: the largest file that is read, in bytes.

        Raises:
          Missing: see `path`; or the file is too large, or cannot be read.
        """
        path = self.path(item)
        try:
            with path.open("rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            raise Missing(f"{self.noun} {item[:80]!r} cannot be read ({error.strerror})") from None
        if len(data) > most:
            raise Missing(f"{self.noun} {item[:80]!r} is larger than {most / 1e6:g} MB")
        return data


class Outlines:
    """The outlines of an index's recordings, each computed once while its file stays as it is."""

    def __init__(self, files: ItemFiles, compute: Callable[[str, Path], Awaitable[np.ndarray]]):
        """Hold nothing yet.

        Args:
          files: the recordings.
          compute: returns what `outline.outline_of` does, of an id and a file.
        """
        self._files, self._compute = files, compute
        self._kept: collections.OrderedDict[str, tuple[Stamp, dict]] = collections.OrderedDict()
        self._running: dict[str, asyncio.Task] = {}

    async def of(self, item: str) -> dict[str, Any]:
        """Return the `seconds` and the `peaks` of a recording; who asks meanwhile waits with them.

        Args:
          item: an id from a request, not checked yet.

        Raises:
          Missing: see `ItemFiles.path`.
          BadMedia: the file cannot be decoded.
        """
        path = await asyncio.to_thread(self._files.path, item)
        stamp = await asyncio.to_thread(stamp_of, path)
        kept = self._kept.get(item)
        if kept and kept[0] == stamp:
            return kept[1]
        if item not in self._running:
            self._running[item] = asyncio.create_task(self._make(item, path, stamp))
        # Who goes away does not end it: another one waits, or comes back for it.
        return await asyncio.shield(self._running[item])

    async def _make(self, item: str, path: Path, stamp: Stamp) -> dict[str, Any]:
        try:
            seconds, *tops = (await self._compute(item, path)).tolist()
        finally:
            del self._running[item]
        made = {"seconds": seconds, "peaks": [round(top, 4) for top in tops]}
        self._kept[item] = stamp, made
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made


def format_of(path: Path) -> str | None:
    """Return the format of a picture or recording by its first bytes; None for any other file."""
    try:
        kind, name = sniff(path)
    except OSError:
        return None
    return name if kind and name != "svg" else None  # SVG can hold scripts
