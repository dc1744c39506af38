"""A user's folder of sound files: scanned once, read when needed, kept within a memory bound."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.data.media.audio import load_audio
from sir_jax.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Decoded sounds that a process keeps: 256 MiB, 70 minutes.
CACHE_BYTES = 1 << 28


class SoundFolder:
    """The sounds under a folder, in the order of their paths; safe to share between threads.

    Pickles as its path and a digest of the names: a worker scans the folder itself, and refuses
    one that has other files by then, because the number of a sound must mean the same to all.

    Args:
      path: of the folder; its sub-folders count.
      field: the config field that named it, for error messages.
      cache_bytes: bound on the decoded sounds that are kept.

    Raises:
      UserError: no such folder, or no sound file in it.
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
        # Not under the lock: two threads may decode one file, but none waits for another's.
        wave = load_audio(self._path / name)
        if not wave.size:
            raise UserError(f"{self._path / name}: holds no samples; remove it from {self._field}")
        wave.flags.writeable = False
        # A sound beyond the bound would only drive out the others.
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
    """Return the sound files under a folder by relative path, sorted."""
    if not folder.is_dir():
        raise UserError(f"{field}={str(folder)!r}: no such folder; give one of sound files")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not names:
        raise UserError(
            f"{field}={str(folder)!r}: holds no {', '.join(SUFFIXES)} file; give another folder"
        )
    return names


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
