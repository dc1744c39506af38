"""Timing of several functions side by side, on a machine that may have other work to do."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
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
        own = os.times()
        return time.monotonic(), busy, own.user + own.system
