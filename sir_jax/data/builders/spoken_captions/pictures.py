"""The pictures of a folder, and which of them a caption means."""

import collections
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from sir_jax.data.builders.publisher import is_junk
from sir_jax.errors import UserError

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
    *(".heic", ".heif", ".avif", ".tif", ".tiff", ".jxl"),
)
# Flickr's lists number the captions of a picture so.
_NUMBERED = re.compile(r"#\d+$")


class Pictures:
    """The files of a folder and of all folders in it, hidden ones and links to folders left out.

    Args:
      folder: of the pictures.

    Attributes:
      folder: of the pictures.
      files: their names, sorted: paths relative to the folder.
      misnamed: names of files that are no UTF-8.
      used: other files that were read.

    Raises:
      UserError: there is no such folder.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"images {str(folder)!r}: no such folder")
        self.folder = folder
        self._root = os.path.realpath(folder)
        self.files: dict[str, None] = {}
        # Linux allows names of any bytes; a corpus could not write these down.
        self.misnamed: list[str] = []
        self.used: set[str] = set()
        for name in sorted(_files(folder)):
            if name.isascii() or _is_text(name):
                self.files[name] = None
            else:
                self.misnamed.append(name.encode(errors="surrogateescape").decode(errors="replace"))
        self._spellings: list[dict[str, str | None]] = []

    @property
    def pictures(self) -> list[str]:
        """Return the files that are pictures by their names."""
        return [name for name in self.files if name.lower().endswith(SUFFIXES)]

    def others(self) -> dict[str, int]:
        """Return the numbers of files that nobody used by suffix, most frequent ones first."""
        others = (name for name in self.files if not name.lower().endswith(SUFFIXES))
        names = (name for name in others if name not in self.used)
        counts = collections.Counter(posixpath.splitext(name)[1].lower() for name in names)
        return dict(counts.most_common())

    def find(self, written: str) -> tuple[str, str]:
        """Return the file that a caption means, and '', or '' and why there is none.

        A path is relative to the folder, or leads into it. Where no file is called so, the
        composed form of letters, their case, the folders before the name and its suffix do not
        count, as long as one file is meant.

        Args:
          written: what the caption calls its picture.
        """
        name = self._below(written)
        names = [name, _NUMBERED.sub("", name)]
        for each in names:
            if each in self.files:
                return each, ""
        self._spellings = self._spellings or self._spell()
        for form, spellings in zip(_FORMS, self._spellings, strict=True):
            for each in names:
                found = spellings.get(form(each), "")
                if found:
                    return found, ""
                if found is None:
                    return "", "several pictures have this name; write its folder, too"
        return "", "no such picture"

    def _below(self, written: str) -> str:
        path = written.strip().replace("\\", "/").removeprefix("file://")
        if os.path.isabs(path):
            real = os.path.realpath(path) if "\0" not in path else path
            path = real.removeprefix(self._root + os.sep)
        return posixpath.normpath(path) if path else ""

    def _spell(self) -> list[dict[str, str | None]]:
        """Return for each form the file by how it is spelt; None where there are several."""
        forms = []
        for form in _FORMS:
            spellings: dict[str, str | None] = {}
            for name in self.pictures:
                key = form(name)
                spellings[key] = None if key in spellings else name
            forms.append(spellings)
        return forms


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _last(name: str) -> str:
    return posixpath.basename(_folded(name))


def _stem(name: str) -> str:
    last = _last(name)
    return posixpath.splitext(last)[0] if last.endswith(SUFFIXES) else last


_FORMS: tuple[Callable[[str], str], ...] = (_composed, _folded, _last, _stem)


def _files(root: Path) -> Iterable[str]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not is_junk(name)]
        prefix = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if not is_junk(name):
                yield name if prefix == "." else f"{prefix}/{name}"
