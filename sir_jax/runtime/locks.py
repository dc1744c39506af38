"""One process at a time per corpus."""

import contextlib
import fcntl
from pathlib import Path

from sir_jax.errors import UserError


@contextlib.contextmanager
def only_one(folder: Path, option: str = "--data_dir"):
    """Hold a corpus' folder, so that two commands cannot make it at the same time.

    Args:
      folder: of the corpus, or of whatever else is made; created where missing.
      option: which one chose the folder, for the messages.

    Raises:
      UserError: it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write there: {error}; choose another {option}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is making {folder.name!r}; wait for it or choose another {option}"
            ) from None
        yield
