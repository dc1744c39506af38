"""A thread that shows where a run hangs: all of Python's stacks, once no step has finished."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator

import jax


class Watchdog:
    """Watch the steps of a run while the `with` block runs; it tells, and kills nothing."""

    def __init__(self, seconds: float, step: int):
        """Hold what to watch for.

        Args:
          seconds: without a finished step, after which the stacks are printed; 0 for never.
          step: updates made.
        """
        self._seconds, self._step = seconds, step
        self._since = time.monotonic()
        self._paused = self._told = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def finished(self, step: int) -> None:
        """Note that a step has finished."""
        self._step, self._since, self._told = step, time.monotonic(), False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time in the `with` block, as of an evaluation."""
        self._paused = True
        try:
            yield
        finally:
            self._since, self._paused = time.monotonic(), False

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 10, 10.0)):
            waited = time.monotonic() - self._since
            if waited >= self._seconds and not self._paused and not self._told:
                self._told = True
                print(
                    f"process {jax.process_index()}: no step has finished for {waited:.0f} s "
                    f"(train.watchdog_seconds={self._seconds:g}); the last was step {self._step}; "
                    "the stacks of all threads:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(sys.stderr)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        if self._seconds:
            self._thread.join()
