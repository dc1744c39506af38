"""Read the bytes of a sound or an image from a path, bytes or an open file."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sir_jax.errors import BadMedia, UserError

# The largest file that is read.
MAX_FILE_BYTES = 1 << 30


def read_source(
    source: str | os.PathLike | bytes | BinaryIO, name: str | None, medium: str
) -> tuple[str, bytes]:
    """Read a whole source into memory.

    Args:
      source: path, bytes, or a binary file, which is read from its current position.
      name: name of the source in error messages; None for its path.
      medium: "sound" or "picture", the name of a source without a path in error messages.

    Returns:
      The source's name in error messages, and its bytes.

    Raises:
      UserError: `source` is neither a path, bytes nor a binary file.
      BadMedia: the file is missing, unreadable, a folder, empty, or larger than `MAX_FILE_BYTES`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        label, data = name or f"{medium} of {len(source)} bytes", bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        label, data = name or str(source), _read_path(Path(source), name or str(source))
    elif hasattr(source, "read"):
        label = name or str(getattr(source, "name", f"{medium} from an open file"))
        data = source.read(MAX_FILE_BYTES + 1)
    else:
        raise UserError(
            f"{name or medium}: a {type(source).__name__} is not a {medium}; "
            "give a path, bytes or an open file"
        )
    if not isinstance(data, bytes):
        raise UserError(f"{label}: opened as text; open it in mode 'rb'")
    if not data:
        raise BadMedia(f"{label}: the file is empty (0 bytes); replace or remove it", "truncated")
    if len(data) > MAX_FILE_BYTES:
        raise BadMedia(_too_large(label), "too large")
    return label, data


def _read_path(path: Path, label: str) -> bytes:
    try:
        info = path.stat()
        if info.st_size > MAX_FILE_BYTES:
            raise BadMedia(_too_large(label), "too large")
        if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
            # Reading a pipe without a writer would block.
            raise BadMedia(f"{label}: is no regular file; give a file, or its bytes")
        return path.read_bytes()
    except FileNotFoundError:
        if "://" in label:
            raise BadMedia(
                f"{label}: is a URL; download it, and give the file or its bytes", "missing"
            ) from None
        raise BadMedia(f"{label}: no such file", "missing") from None
    except IsADirectoryError:
        raise BadMedia(f"{label}: is a folder; give a file") from None
    except OSError as error:
        raise BadMedia(f"{label}: cannot be read ({error.strerror})") from None


def _too_large(label: str) -> str:
    return f"{label}: larger than {MAX_FILE_BYTES >> 20} MiB; cut it into smaller files"
