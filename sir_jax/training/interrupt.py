"""SIGTERM and Ctrl-C during training: finish the step, save, then stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(Exception):
    """Tell that training stopped at a signal, with everything saved."""

    def __init__(self, step: int, total: int, signum: int):
        """Hold the step that was saved, the run's steps, and the signal."""
        self.step, self.total, self.signum = step, total, signum
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step} of {total}")


class _Cut(Exception):
    """Raised by a signal inside `Interrupt.cutting`."""


class Interrupt:
    """Catch SIGTERM (preemption) and SIGINT while the `with` block runs; a second one is final."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None
        self._previous = {}
        self._cutting = False

    @property
    def requested(self) -> bool:
        """Tell whether a signal has come."""
        return self.signal is not None

    def _handle(self, signum, frame) -> None:
        del frame
        self.signal = signum
        self._restore()
        if self._cutting:
            raise _Cut

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Let a signal end the `with` block at once; for work that can be made up for later.

        An evaluation may take longer than the seconds between SIGTERM and the end of a machine.
        """
        self._cutting = True
        try:
            yield
        except _Cut:
            pass
        finally:
            self._cutting = False

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def __enter__(self) -> "Interrupt":
        # Python lets only the main thread set handlers; elsewhere the signals stay as they are.
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        self._restore()
