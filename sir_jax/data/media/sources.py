"""Where the bytes of a sound or a picture come from: a path, bytes or an open file."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sir_jax.errors import BadMedia, UserError

# A bound on what one file may make this process read.
MAX_FILE_BYTES = 1 << 30


def read_source(
    source: str | os.PathLike | bytes | BinaryIO, name: str | None, kind: str
) -> tuple[str, bytes]:
    """Read a whole source into memory.

    Args:
      source: path, bytes, or a file opened for reading bytes (read from where it stands).
      name: what error messages call it; where None, its path.
      kind: what it should hold, e.g. "sound"; names a source that has no path.

    Returns:
      The name and the bytes.

    Raises:
      UserError: missing, unreadable, a folder, empty, or larger than `MAX_FILE_BYTES`; a
        `BadMedia` where it is the file's own fault.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        label, data = name or f"{kind} of {len(source)} bytes", bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        label, data = name or str(source), _read_path(Path(source), name or str(source))
    elif hasattr(source, "read"):
        label = name or str(getattr(source, "name", f"{kind} from an open file"))
        data = source.read(MAX_FILE_BYTES + 1)
    else:
        raise UserError(
            f"{name or kind}: a {type(source).__name__} is not a {kind}; "
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
        found = path.stat()
        if found.st_size > MAX_FILE_BYTES:
            raise BadMedia(_too_large(label), "too large")
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            # A pipe without a writer would be waited for, forever.
            raise BadMedia(f"{label}: is no regular file; give a file, or its bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise BadMedia(f"{label}: no such file", "missing") from None
    except IsADirectoryError:
        raise BadMedia(f"{label}: is a folder; give a file") from None
    except OSError as error:
        raise BadMedia(f"{label}: cannot be read ({error.strerror})") from None


def _too_large(label: str) -> str:
    return f"{label}: larger than {MAX_FILE_BYTES >> 20} MiB; cut it into smaller files"
