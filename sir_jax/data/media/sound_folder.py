"""A user's folder of sound files, with a bounded cache of decoded sounds."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.sniff import sniff
from sir_jax.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Size of the cache of a process: 256 MiB hold 70 minutes of sound.
CACHE_BYTES = 1 << 28


class SoundFolder:
    """The sounds in a folder and its sub-folders, sorted by path; safe to share between threads.

    A file is a sound by its suffix or by its content; names that start with a dot are passed over.

    It pickles as its path and a digest of the file names. A worker scans the folder itself, and
    raises if the files have changed, because all workers must agree on the number of each sound.

    Args:
      path: path of the folder.
      field: config field with the path, for error messages.
      cache_bytes: size of the cache of decoded sounds.

    Raises:
      UserError: the folder does not exist, or has no sound file.
    """

    def __init__(self, path: str, field: str, cache_bytes: int = CACHE_BYTES):
        self._path, self._field, self._cache_bytes = Path(path), field, cache_bytes
        self._digest = ""
        self._forget()
        self._digest = _digest(self._scan())

    def __getstate__(self) -> dict[str, Any]:
        return {
            "_path": self._path,
            "_field": self._field,
            "_cache_bytes": self._cache_bytes,
            "_digest": self._digest,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self._scan())

    def __getitem__(self, number: int) -> np.ndarray:
        """Return one sound, read-only float32 [N] at 16 kHz.

        Raises:
          UserError: the file cannot be decoded, or holds no samples.
        """
        name = self._scan()[number]
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        # Decoded without the lock: two threads may decode the same file, but none waits.
        wave = load_audio(self._path / name)
        if not wave.size:
            raise UserError(f"{self._path / name}: holds no samples; remove it from {self._field}")
        wave.flags.writeable = False
        # A sound larger than the cache would only evict the others.
        if wave.nbytes > self._cache_bytes:
            return wave
        with self._lock:
            self._cache[name] = wave
            while sum(kept.nbytes for kept in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
        return wave

    def _forget(self) -> None:
        self._names: list[str] | None = None
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def _scan(self) -> list[str]:
        with self._lock:
            if self._names is None:
                names = _list_sounds(self._path, self._field)
                if self._digest not in ("", _digest(names)):
                    raise UserError(
                        f"{self._field}={str(self._path)!r}: its files changed while it was in "
                        "use; start again"
                    )
                self._names = names
            return self._names


def _list_sounds(folder: Path, field: str) -> list[str]:
    """Return the sorted relative paths of the sound files in a folder and its sub-folders."""
    if not folder.is_dir():
        raise UserError(f"{field}={str(folder)!r}: no such folder; give one of sound files")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.name.startswith(".") and path.is_file() and _is_sound(path)
    )
    if not names:
        raise UserError(f"{field}={str(folder)!r}: holds no sound file; give another folder")
    return names


def _is_sound(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        return sniff(path).kind == "speech"
    except OSError:
        return False


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
