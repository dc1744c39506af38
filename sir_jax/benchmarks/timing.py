"""Time functions in turn, on a machine that may have other load."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Times(NamedTuple):
    """Seconds that one function took."""

    median: float
    best: float


def interleave(functions: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Times]:
    """Time functions in turn, so that other load of the machine affects all of them.

    Args:
      functions: the functions by name; each blocks until its work is done. Each is called once
        before the timing.
      rounds: timed calls of each function.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: Times(statistics.median(s), min(s)) for name, s in seconds.items()}


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children so far, ended or alive (Linux)."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        # Fields of proc(5) from the state on. Field 1 is the parent; fields 11 to 14 are the user
        # and system time, in ticks, of the child and of the child's own ended children.
        if int(fields[1]) == os.getpid():
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


class OtherLoad:
    """Measure the share of the machine that other processes use from now on (Linux)."""

    def __init__(self):
        self._start = self._read()

    def share(self) -> float | None:
        """Return the share, 0 to 1; None if the system does not report it."""
        end = self._read()
        if self._start is None or end is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._start, end, strict=True))
        return max(0.0, busy - own) / (wall * os.cpu_count()) if wall else None

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        try:
            with open("/proc/stat") as file:
                # user nice system idle iowait irq softirq steal, in ticks
                fields = [int(x) for x in file.readline().split()[1:9]]
        except OSError:
            return None
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, cpu_seconds()
