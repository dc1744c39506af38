"""Make many things in parallel, into chunk files that survive an interrupt.

Every chunk is made by a process of its own and reaches its name only when complete. A second call
goes on with the missing chunks.
"""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.errors import UserError
from sir_jax.runtime.files import PART, whole_file

_ATTEMPTS = 2
# Exit statuses from here up carry the errno of what the operating system refused.
_OS_ERROR = 100

# Make(path, items): leave a file at path when, and only when, all items are in it.
Make = Callable[[Path, Sequence[Any]], None]


def default_workers() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def chunks_of(items: Sequence[Any], folder: Path, size: int) -> dict[Path, Sequence[Any]]:
    """Return the chunk files of a plan and the items in each, `size` but for the last."""
    return {folder / f"{i:06d}.npz": items[i : i + size] for i in range(0, len(items), size)}


def parts_of(path: Path, items: Sequence[Any]) -> dict[Path, Sequence[Any]]:
    """Return the files that stand for a chunk whose items are made one by one."""
    return {path.with_name(f"{path.stem}+{i:04d}.npz"): [item] for i, item in enumerate(items)}


def save_chunk(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays into a file that appears only when complete."""
    # A worker of a call that was killed may still be at the same chunk.
    with whole_file(path, own=True) as part, part.open("wb") as stream:
        np.savez(stream, **arrays)


def make_chunks(
    chunks: dict[Path, Sequence[Any]],
    make: Make,
    workers: int,
    report: Callable[[int], None] = lambda items: None,
    deadline: float | None = None,
    give_up: Callable[[Path, Any, str], None] | None = None,
) -> None:
    """Make every missing chunk.

    Args:
      chunks: of `chunks_of`; all in one folder, which is made where missing.
      make: of one chunk; a function of a module, or a partial of one: it runs in other processes.
      workers: processes at a time.
      report: called with the number of items that just became ready, also those found ready.
      deadline: seconds after which a process is taken to hang, and killed; None never does.
      give_up: where given, a chunk that twice kills its process, or hangs, is made item by item
        (see `parts_of`), and `give_up(path, item, why)` is called for an item that still does; it
        must leave a file at path. Where None, such a chunk stops everything.

    Raises:
      UserError: a chunk failed twice (a worker was killed, the disk is full, ...).
    """
    for folder in {path.parent for path in chunks}:
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f"*{PART}"):
            part.unlink(missing_ok=True)
    _Run(make, workers, report, deadline, give_up).all(chunks)


class _Run:
    """One call of `make_chunks`."""

    def __init__(self, make, workers, report, deadline, give_up):
        self._make, self._workers, self._report = make, workers, report
        self._deadline, self._give_up = deadline, give_up
        self._pending: list[tuple[Path, Sequence[Any]]] = []
        self._parts: set[Path] = set()
        self._failures: dict[Path, int] = {}
        self._context = _context(make)

    def all(self, chunks: dict[Path, Sequence[Any]]) -> None:
        """Make what is missing of all chunks, `workers` at a time."""
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
        """Try again, split the chunk, give up on its only item, or stop."""
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
        """Let a chunk's items be made one by one; return how many of them are ready."""
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
    # Ctrl-C reaches every process of the terminal; the parent decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if deadline is not None:
        # The kernel ends this process, also inside a decoder and when the parent is gone.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, deadline)
    try:
        make(path, items)
    except OSError as error:
        sys.exit(_OS_ERROR + (error.errno or errno.EIO))


def _context(make: Make):
    # Not fork: the caller may hold threads. The server imports once and forks clean children.
    context = multiprocessing.get_context("forkserver")
    module = getattr(make, "func", make).__module__
    context.set_forkserver_preload(["__main__", __name__, module])
    return context
