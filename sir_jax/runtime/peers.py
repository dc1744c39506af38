"""The other processes of a job: who is gone, who has failed, and when all stop together.

Each process posts a note on a board, JAX's key-value store, and reads those of the others, once a
second and in a thread of its own: a process that waits for its devices, and so for a peer that is
dead, can still say so.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping

PERIOD = 1.0  # seconds between notes
LOST = 30.0  # seconds without a new note of a process, after which it is gone
FAREWELL = 3 * PERIOD  # that a process leaves the others to read why it ends

# <sysexits.h> EX_TEMPFAIL: nothing is wrong that running the same command again does not mend.
TRY_AGAIN = 75

_BOARD = "sir_jax/peers/"


class Peers:
    """This process's note on the board, and the thread that minds the others'."""

    def __init__(self, client, address: str, index: int, count: int):
        """Begin to post and to watch.

        Args:
          client: of JAX's coordination service.
          address: of that service, 'HOST:PORT'; process 0 has it.
          index: this process's number.
          count: of processes.
        """
        self.index, self.count = index, count
        self.signal: int | None = None  # one that came to this process; set by a handler
        self.agreed_signal: int | None = None
        self._client, self._address = client, address
        self._changed = threading.Condition()
        self._beat = self._ticks = 0
        self._freeze = self._agreed = self._end = None
        self._ended: set[int] = set()
        self._closing = threading.Event()
        self._asked: float | None = None  # since when an answer of process 0 is due
        threads = (self._mind, self._mind_first) if index else (self._mind,)
        self._threads = [threading.Thread(target=run, name="peers", daemon=True) for run in threads]
        for thread in self._threads:
            thread.start()

    def tick(self) -> bool:
        """Count a point that every process passes, and tell whether all stop at this one.

        A signal that reaches one process reaches the board; every process then names the first
        point that it has not passed yet, and the last of those is the one. Only who comes to the
        point that it has named has to wait for the others' names, which come from their threads.
        """
        with self._changed:
            self._ticks += 1
            if self._freeze is None or self._ticks < self._freeze:
                return False
            self._changed.wait_for(lambda: self._agreed is not None)
            return self._ticks >= self._agreed

    def close(self) -> None:
        """Wait until all have come to their end, so that none is missed before."""
        self._end = ""
        while len(self._ended) < self.count:
            time.sleep(PERIOD / 10)
        self._stop()

    def fail(self, line: str) -> None:
        """Tell the others why this process is about to end, and leave them time to read it."""
        self._end = line
        time.sleep(FAREWELL)

    def await_verdict(self) -> None:
        """Leave time to find out who is gone; then this process ends before this returns."""
        time.sleep(LOST + 3 * PERIOD)

    def _stop(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _mind(self) -> None:
        """Post and read, once a second, until all is over."""
        seen: dict[int, tuple[int, float]] = {}
        began = time.monotonic()
        while not self._closing.is_set():
            self._asked = time.monotonic()
            try:
                self._post()
                notes = self._read()
            # Whatever it is: the service lives in process 0.
            except Exception:  # noqa: BLE001
                self._leave(0, "is gone")
                return
            self._asked = None
            now = time.monotonic()
            for peer in range(self.count):
                beat = notes[peer]["beat"] if peer in notes else 0
                if peer not in seen or seen[peer][0] != beat:
                    seen[peer] = beat, now if peer in notes else began
            self._ended = {peer for peer, note in notes.items() if note["end"] is not None}
            for peer, note in notes.items():
                if note["end"] and self._end is None:
                    self._leave(peer, f"has failed: {note['end']}")
            # The one that went first: others may have gone because of it.
            for peer, (_, when) in sorted(seen.items(), key=lambda item: item[1][1]):
                if now - when > LOST and peer not in self._ended:
                    self._leave(peer, "is gone")
            self._agree(notes)
            self._closing.wait(PERIOD)

    def _mind_first(self) -> None:
        """Look for process 0 where it is slow to answer; JAX's client then waits for ever."""
        host, _, port = self._address.rpartition(":")
        while not self._closing.wait(PERIOD / 2):
            asked = self._asked
            if asked is not None and time.monotonic() - asked > 2 * PERIOD:
                try:
                    socket.create_connection((host, int(port)), 2 * PERIOD).close()
                except OSError:
                    self._leave(0, "is gone")

    def _post(self) -> None:
        self._beat += 1
        note = {"beat": self._beat, "signal": self.signal, "freeze": self._freeze, "end": self._end}
        self._client.key_value_set(f"{_BOARD}{self.index}", json.dumps(note), allow_overwrite=True)

    def _read(self) -> dict[int, dict]:
        found = self._client.key_value_dir_get(_BOARD)
        return {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}

    def _agree(self, notes: Mapping[int, dict]) -> None:
        signals = [notes[peer]["signal"] for peer in sorted(notes) if notes[peer]["signal"]]
        with self._changed:
            if signals and self._freeze is None:
                self._freeze = self._ticks + 1
                self.agreed_signal = signals[0]
            points = [note["freeze"] for note in notes.values() if note["freeze"] is not None]
            if len(points) == self.count and self._freeze is not None:
                self._agreed = max(points)
                self._changed.notify_all()

    def _leave(self, peer: int, what: str) -> None:
        """End this process: its devices wait for one that will never answer."""
        if self._end is not None:
            return  # this one is about to leave anyway, with a message of its own
        print(
            f"sir-jax train: process {self.index}: process {peer} {what}; once that is mended, run "
            "the same command again on every machine: it goes on at the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        if self.index == 0:
            time.sleep(FAREWELL)  # the board goes with this process
        os._exit(TRY_AGAIN)


def delay_abort() -> None:
    """Let the thread that aborts sleep first, for as many seconds as SIGABRT's number.

    JAX's client aborts the process from a thread of its own as soon as process 0 is dead, with a
    stack trace for a message. In six seconds `Peers` has said in one line what is the matter,
    though that thread holds the client's lock meanwhile.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    # A handler is given the signal's number, and `sleep` takes seconds; it may be called from one.
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
