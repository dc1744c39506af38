"""What a command says on the terminal: lines of the first process, and how far it has come.

And what a terminal may do to a command: it knows few letters, it goes away, it sends Ctrl-C.
"""

import codecs
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator

SECONDS = 10.0  # between lines of progress, where there is no terminal for a bar


# Whether Ctrl-C has been pressed, see `note_interrupts`, or SIGTERM came, see `terminable`.
_interrupted = False


def write_any_letter() -> None:
    r"""Let stdout and stderr write any text, whatever letters the terminal knows.

    The bytes of a file name that is no text go out as they are; other letters that the terminal
    lacks as \u escapes.
    """
    codecs.register_error("sir_jax", _encode)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test has put another stream
            stream.reconfigure(errors="sir_jax")


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        first = UnicodeEncodeError(
            error.encoding, error.object, error.start, error.start + 1, error.reason
        )
        return codecs.lookup_error("backslashreplace")(first)


def reader_is_gone() -> bool:
    """Tell whether who read stdout or stderr through a pipe, as `| head` does, has stopped."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def drop_output() -> None:
    """Write nothing more to anybody: Python flushes at its end, and would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def note_interrupts() -> None:
    """Remember Ctrl-C, besides raising KeyboardInterrupt.

    Python loses that exception where it strikes in a callback from C; then `Progress` raises it
    once more. Nothing changes where the signal is ignored or has a handler already.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


class Terminated(KeyboardInterrupt):
    """Tell that SIGTERM ended what was under way, in the way of Ctrl-C."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM end the `with` block by `Terminated`, remembered as Ctrl-C is.

    What goes on where it was stopped can then say so. Only the main thread may call it.
    """
    previous = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _note(signum, frame) -> None:
    global _interrupted
    _interrupted = True
    if signum == signal.SIGTERM:
        raise Terminated
    signal.default_int_handler(signum, frame)


def interrupted() -> bool:
    """Tell whether Ctrl-C or SIGTERM ended something, see `note_interrupts` and `terminable`."""
    return _interrupted


def leave(status: int) -> None:
    """End the process at once, its worker processes included, without cleaning up in memory.

    XLA compiles in threads of its own. After Ctrl-C they go on, and touch what Python's ordinary
    end has freed: a segmentation fault.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if multiprocessing := sys.modules.get("multiprocessing"):
        for child in multiprocessing.active_children():
            child.terminate()
    os._exit(status)


def say(line: str) -> None:
    """Print a line on the first process, above the progress bar where there is one."""
    import jax

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
        """Count items that are done.

        Raises:
          KeyboardInterrupt: Ctrl-C was pressed, and its exception was lost.
        """
        if _interrupted:
            raise KeyboardInterrupt
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
