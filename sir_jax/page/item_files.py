"""The files of an index's items; no request can name another file."""

from collections.abc import Callable, Container
from pathlib import Path

from sir_jax.errors import UserError

# Media types by suffix; files with other suffixes are not served.
TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
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
    ):
        """Hold the ids of one gallery.

        Args:
          root: the index's folder; None if the index was not built from a folder.
          known: the ids.
          path_of: returns the file of an id.
          noun: what messages call an item, such as 'picture'.
        """
        self.root = None if root is None else Path(root).resolve()
        self.known, self.path_of, self.noun = known, path_of, noun

    def path(self, item: str) -> Path:
        """Return an item's file.

        Args:
          item: an id from a request, not checked yet.

        Raises:
          Missing: the index does not hold the id, or its file is not in the index's folder.
        """
        if item not in self.known:
            raise Missing(f"the index holds no {self.noun} {item[:80]!r}")
        if self.root is None:
            raise Missing(f"{self.noun} {item[:80]!r}: the index was not made of a folder")
        path = self.path_of(item).resolve()
        if not path.is_relative_to(self.root) or path.suffix.lower() not in TYPES:
            raise Missing(f"{self.noun} {item[:80]!r} is no file of the index's folder")
        if not path.is_file():
            raise Missing(f"{self.noun} {item[:80]!r} is gone; run `sir-jax index` again")
        return path

    def read(self, item: str, most: int) -> bytes:
        """Return the contents of an item's file.

        Args:
          item: an id from a request, not checked yet.
          most: the largest file that is read, in bytes.

        Raises:
          Missing: the index does not hold the id, or its file is not in the index's folder, is too
            large, or cannot be read.
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
