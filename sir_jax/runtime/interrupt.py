"""SIGTERM and Ctrl-C during training: finish the step, save, then stop.

Of several processes, all stop at the same step, whichever of them the signal reached.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

from sir_jax.runtime import distributed


class Interrupted(Exception):
    """Tell that training stopped at a signal, with everything saved."""

    def __init__(self, step: int, total: int, signum: int):
        """Hold the step that was saved, the run's steps, and the signal."""
        self.step, self.total, self.signum = step, total, signum
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step} of {total}")


class _Cut(Exception):
    """Raised by a signal inside `Interrupt.cutting`."""


# Whose `cutting` is under way; signals have one handler in a process, too.
_cutting: "Interrupt | None" = None


def give_way() -> None:
    """Let a signal end what is under way in `Interrupt.cutting`.

    All processes call this at the same points, as between the batches of an evaluation. One
    process alone needs no such points.
    """
    if _cutting is not None and distributed.several() and _cutting.requested():
        raise _Cut


class Interrupt:
    """Catch SIGTERM (preemption) and SIGINT while the `with` block runs; a second one is final."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None
        self._previous = {}

    def requested(self) -> bool:
        """Tell whether to stop at this point of the program, which every process passes."""
        if self.signal is None and distributed.tick():
            self.signal = distributed.agreed_signal()
        return self.signal is not None

    def _handle(self, signum, frame) -> None:
        del frame
        self._restore()
        if distributed.several():
            distributed.notify(signum)
            return
        self.signal = signum
        if _cutting is self:
            raise _Cut

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Let a signal end the `with` block at once; for work that can be made up for later.

        An evaluation may take longer than the seconds between SIGTERM and the end of a machine.
        """
        global _cutting
        _cutting = self
        try:
            yield
        except _Cut:
            pass
        finally:
            _cutting = None

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def __enter__(self) -> "Interrupt":
        # Python lets only the main thread set handlers; elsewhere the signals stay as they are.
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *error) -> None:
        # Who stops for a peer that is gone finds out first which one: the signal that a launcher
        # sends meanwhile must not end it without a word.
        if kind is None or not distributed.several():
            self._restore()
