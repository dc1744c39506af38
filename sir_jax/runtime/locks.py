"""Locks on local folders: refused at once, with their owner's name, and never left behind.

The kernel lets go of a lock when its process ends, however that is; nothing has to be cleaned up.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sir_jax.errors import UserError

LOCK = ".lock"


class Taken(Exception):
    """Tell that another owner holds a lock, and which one."""

    def __init__(self, owner: str):
        """Hold the owner's name, as `owner_name` gave it to that process."""
        self.owner = owner
        super().__init__(owner)


def owner_name() -> str:
    """Return what this process is called towards others that want the same lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock while the `with` block runs.

    Args:
      path: of the lock's file, which is made where missing, and stays.

    Raises:
      Taken: another process, or another holder in this one, has it.
      OSError: the file cannot be written, or the file system has no locks.
    """
    # Without locks of the kernel, filelock would leave a file behind for them when it is killed.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise Taken(path.read_text().strip() or "one that has just begun") from None
    try:
        path.write_text(owner_name() + "\n")
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_one(folder: Path, argument: str = "data_dir") -> Iterator[None]:
    """Hold a folder while the `with` block runs, so that no two commands make it at the same time.

    Args:
      folder: of the corpus, or of whatever else is made; created where missing.
      argument: the one that chose the folder, for the messages.

    Raises:
      UserError: it cannot be written, or another process holds it.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / LOCK))
        except OSError as error:
            raise UserError(f"cannot write there: {error}; choose another {argument}") from None
        except Taken as taken:
            raise UserError(
                f"another process is making {folder.name!r} ({taken.owner}); wait for it or choose "
                f"another {argument}"
            ) from None
        yield
