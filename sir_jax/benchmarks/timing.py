"""Timing of several functions side by side, on a machine that may have other work to do."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Times(NamedTuple):
    """What one function took, in seconds."""

    median: float
    best: float


def interleave(functions: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Times]:
    """Time functions in turn, so that a slow minute of the machine hits all of them alike.

    Args:
      functions: by name; each blocks until its work is done. Each is called once before, untimed.
      rounds: timed calls of each.
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
        except OSError:  # ended meanwhile
            continue
        # Of proc(5), counted from the state on: parent, and user and system time in ticks, of the
        # child itself and of its own ended children.
        if int(fields[1]) == os.getpid():
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


class OtherLoad:
    """Measure what share of the machine other processes used since it was made (Linux)."""

    def __init__(self):
        self._start = self._read()

    def share(self) -> float | None:
        """Return the share, 0 to 1; None where the system does not tell."""
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
