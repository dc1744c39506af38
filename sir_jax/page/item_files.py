"""The files of an index's items; no request can name another file."""

from collections.abc import Callable, Container
from pathlib import Path

from sir_jax.data.media.sniff import sniff
from sir_jax.errors import UserError
from sir_jax.index.folder import Stamp, stamp_of

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


def format_of(path: Path) -> str | None:
    """Return the format of a picture or recording by its first bytes; None for any other file."""
    try:
        kind, name = sniff(path)
    except OSError:
        return None
    return name if kind and name != "svg" else None  # SVG can hold scripts
