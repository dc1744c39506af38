"""Make many items in parallel, into chunk files that survive an interrupt.

Each chunk is made by its own process, and gets its name only when complete. After an interrupt, a
second call makes the missing chunks.
"""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from sir_jax.data.builders.chunk_files import SUFFIX, is_readable
from sir_jax.errors import UserError
from sir_jax.runtime.files import PART
from sir_jax.runtime.process import end_with_parent

_ATTEMPTS = 2
# An exit status from here up is this number plus the errno of an OSError.
_OS_ERROR = 100

# A module that makers import late.
RECORD_FORM = "sir_jax.data.builders.record_form"

# Make(path, items) writes all items into the file at path, which must appear only when complete.
Make = Callable[[Path, Sequence[Any]], None]


def default_workers() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def chunks_of(items: Sequence[Any], folder: Path, size: int) -> dict[Path, Sequence[Any]]:
    """Return the items of each chunk file: `size` items, fewer in the last one."""
    return {folder / f"{i:06d}{SUFFIX}": items[i : i + size] for i in range(0, len(items), size)}


def parts_of(path: Path, items: Sequence[Any]) -> dict[Path, Sequence[Any]]:
    """Return the files that replace a chunk whose items are made one by one."""
    return {path.with_name(f"{path.stem}+{i:04d}{SUFFIX}"): [item] for i, item in enumerate(items)}


def files_of(chunks: dict[Path, Sequence[Any]]) -> Iterator[tuple[Path, Sequence[Any]]]:
    """Yield the files that hold finished chunks, with their items: a chunk's, or its parts'."""
    for path, items in chunks.items():
        yield from [(path, items)] if path.exists() else parts_of(path, items).items()


def make_chunks(
    chunks: dict[Path, Sequence[Any]],
    make: Make,
    workers: int,
    report: Callable[[int], None] = lambda items: None,
    deadline: float | None = None,
    give_up: Callable[[Path, Any, str], None] | None = None,
    preload: Sequence[str] = (),
) -> None:
    """Make the missing chunks, and again those that a crash of the machine has torn.

    Args:
      chunks: from `chunks_of`. Their folder is created if missing.
      make: makes one chunk. It runs in other processes: a module's function, or a partial of one.
      workers: number of processes at a time.
      report: called with the number of items that have just become ready; the first call counts
        those that were ready before.
      deadline: seconds after which a process is taken to hang and is killed; None for no limit.
      give_up: called as `give_up(path, item, why)` for an item that kills its process or hangs; it
        must write the file at path. To find that item, a chunk that failed twice is made item by
        item (see `parts_of`). With None, a chunk that fails twice is an error.
      preload: modules that `make` imports late. They are imported once for all processes.

    Raises:
      UserError: a chunk failed twice, for example because the disk is full.
    """
    for folder in {path.parent for path in chunks}:
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f"*{PART}"):
            part.unlink(missing_ok=True)
        for path in folder.glob(f"*{SUFFIX}"):
            if not is_readable(path):
                path.unlink()
    _Run(make, workers, report, deadline, give_up, preload).all(chunks)


class _Run:
    """One call of `make_chunks`."""

    def __init__(self, make, workers, report, deadline, give_up, preload):
        self._make, self._workers, self._report = make, workers, report
        self._deadline, self._give_up = deadline, give_up
        self._pending: list[tuple[Path, Sequence[Any]]] = []
        self._parts: set[Path] = set()
        self._failures: dict[Path, int] = {}
        self._context = _context(make, preload)

    def all(self, chunks: dict[Path, Sequence[Any]]) -> None:
        """Make the missing chunks, `workers` at a time."""
        ready = 0
        for path, items in chunks.items():
            if path.exists():
                ready += len(items)
            elif any(part.exists() for part in parts_of(path, items)):
                ready += self._split(path, items)
            else:
                self._pending.append((path, items))
        self._report(ready)
        self._pending.reverse()
        running: dict[int, tuple] = {}
        try:
            while self._pending or running:
                while self._pending and len(running) < self._workers:
                    path, items = self._pending.pop()
                    process = self._context.Process(
                        target=_work, args=(self._make, path, items, self._deadline)
                    )
                    process.start()
                    running[process.sentinel] = (process, path, items)
                for sentinel in wait(list(running)):
                    process, path, items = running.pop(sentinel)
                    process.join()
                    if process.exitcode == 0:
                        self._report(len(items))
                    else:
                        self._failed(path, items, process.exitcode)
        finally:
            for process, *_ in running.values():
                process.terminate()
            for process, *_ in running.values():
                process.join()

    def _failed(self, path: Path, items: Sequence[Any], status: int) -> None:
        """Retry a failed chunk, split it into items, give up on its only item, or raise."""
        failures = self._failures[path] = self._failures.get(path, 0) + 1
        hangs = status == -signal.SIGALRM
        if failures < _ATTEMPTS and not hangs:
            self._pending.append((path, items))
        elif status >= _OS_ERROR:
            raise UserError(
                f"cannot write {str(path)!r}: {os.strerror(status - _OS_ERROR)}; mend that and run "
                "the same command again, finished chunks are kept"
            )
        elif self._give_up is None:
            raise UserError(
                f"making {path.name} failed {failures} times (exit status {status}); mend the "
                "cause above and run the same command again, finished chunks are kept"
            )
        elif path in self._parts:
            self._give_up(path, items[0], _why(status, self._deadline))
            self._report(1)
        else:
            self._split(path, items)

    def _split(self, path: Path, items: Sequence[Any]) -> int:
        """Queue a chunk's items one by one; return how many of them are ready."""
        parts = parts_of(path, items)
        self._parts.update(parts)
        missing = [part for part in parts if not part.exists()]
        self._pending += [(part, parts[part]) for part in reversed(missing)]
        return len(parts) - len(missing)


def _why(status: int, deadline: float | None) -> str:
    if status == -signal.SIGALRM:
        return f"not done after {deadline:g} s"
    if status < 0:
        return f"killed its process ({signal.Signals(-status).name})"
    return f"stopped its process (exit status {status})"


def _work(make: Make, path: Path, items: Sequence[Any], deadline: float | None) -> None:
    end_with_parent()
    # Ctrl-C reaches every process of the terminal, but only the parent shall act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if deadline is not None:
        # The kernel then ends this process, even within a decoder and without a parent.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, deadline)
    try:
        make(path, items)
    except OSError as error:
        sys.exit(_OS_ERROR + (error.errno or errno.EIO))


def _context(make: Make, preload: Sequence[str]):
    # Not fork, because the caller may have threads. A fork server imports once and then forks
    # children that have none.
    context = multiprocessing.get_context("forkserver")
    module = getattr(make, "func", make).__module__
    context.set_forkserver_preload(["__main__", __name__, module, *preload])
    return context
