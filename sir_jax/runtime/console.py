"""What a command says on the terminal: lines of the first process, and how far it has come."""

import sys
import time

import jax

SECONDS = 10.0  # between lines of progress, where there is no terminal for a bar


def say(line: str) -> None:
    """Print a line on the first process, above the progress bar where there is one."""
    if jax.process_index() == 0:
        tqdm = sys.modules.get("tqdm")  # who has not loaded it shows no bar
        if tqdm is None:
            print(line)
        else:
            tqdm.tqdm.write(line)
        sys.stdout.flush()


class Progress:
    """Count items on stderr; use it in a `with` block."""

    def __init__(self, total: int | None, what: str, show: bool = True):
        """Begin to count.

        Args:
          total: items in all; None where nobody knows.
          what: they are.
          show: False says nothing.
        """
        self._total, self._what, self._done, self._bar = total, what, 0, None
        self._start = self._said = time.monotonic()
        self._lines = show
        if show and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, desc=what, unit="", dynamic_ncols=True)
            self._lines = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._lines and self._done:
            self._say(time.monotonic())

    def update(self, count: int = 1) -> None:
        """Count items that are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._lines and (now := time.monotonic()) - self._said >= SECONDS:
            self._say(now)

    def _say(self, now: float) -> None:
        self._said = now
        rate = self._done / max(now - self._start, 1e-9)
        total = "" if self._total is None else f" of {self._total:,}"
        print(
            f"{self._what}: {self._done:,}{total} ({rate:.1f} a second)",
            file=sys.stderr,
            flush=True,
        )
