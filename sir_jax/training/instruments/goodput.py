"""Where a run's time went, over all its restarts: goodput is the share spent on steps that count.

Every second from the first start to now is of one kind. What a restart costs is known only by the
next start: the time since the last sign of life, and the steps that have to be made again. So the
sums lie in the workdir, beside the checkpoints and not in them.
"""

import contextlib
import json
import time
from pathlib import Path

from sir_jax.runtime import distributed
from sir_jax.runtime.console import say
from sir_jax.runtime.files import write_json
from sir_jax.runtime.workdir import is_remote

FILE = "goodput.json"
# kind -> how it is told. What is none of the others is `rest`: to read the checkpoint, to place the
# state, to start.
KINDS = {
    "steps": "in steps",
    "data": "waiting for data",
    "compile": "compiling",
    "save": "saving",
    "evaluate": "evaluating",
    "rest": "starting and the rest",
    "lost": "lost to restarts",
}
# Seconds between two signs of life.
WRITE_EVERY, WRITE_EVERY_REMOTE = 1.0, 60.0
# Checkpoints that a run may go on from; the newest may turn out not to be whole.
MARKS = 8


class Goodput:
    """Sums of a run's time by what it was spent on."""

    def __init__(self):
        """Start to count."""
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.restarts = self.steps_again = 0
        self._since = time.time()
        self._marks: dict[int, dict[str, float]] = {}  # sums at a step that a run may go on from
        self._path: Path | None = None
        self._written = 0.0

    def open(self, workdir: Path, step: int, training: bool = True) -> None:
        """Take over what earlier starts of a run have written; call it before the first step.

        Args:
          workdir: of the run; nothing is written but by the first process.
          step: that the run goes on from.
          training: whether there is a step left to make. Where not, nothing is counted.
        """
        if not training or not distributed.is_first():
            return
        self._path, earlier = workdir / FILE, _read(workdir / FILE)
        self.spent("rest")
        began = self._since - sum(self.seconds.values())
        if earlier:
            marks = {int(at): sums for at, sums in earlier["marks"].items()}
            before = earlier["seconds"]
            # Without a mark, as from a checkpoint of before this file, nothing is made again.
            kept = marks.get(step, before)
            again = sum(before.values()) - sum(kept.values())
            down = max(0.0, began - earlier["alive"])
            for kind, seconds in kept.items():
                self.seconds[kind] += seconds
            self.seconds["lost"] += again + down
            self.restarts = earlier["restarts"] + 1
            self.steps_again = earlier["steps_again"] + max(0, earlier["step"] - step)
            self._marks = {at: sums for at, sums in marks.items() if at < step}
        self.mark(step)

    def spent(self, kind: str) -> None:
        """Count the time since the last call as of one kind."""
        now = time.time()
        # A machine's clock may be set back.
        self.seconds[kind] += max(0.0, now - self._since)
        self._since = now

    def mark(self, step: int) -> None:
        """Note that a run may go on from a step, whose checkpoint has been begun, and write."""
        self._marks[step] = dict(self.seconds)
        for old in sorted(self._marks)[:-MARKS]:
            del self._marks[old]
        self.write(step, now=True)

    def write(self, step: int, now: bool = False) -> None:
        """Write the sums, a sign of life; not more often than `WRITE_EVERY` says, unless `now`."""
        if self._path is None:
            return
        every = WRITE_EVERY_REMOTE if is_remote(self._path) else WRITE_EVERY
        if not now and time.time() - self._written < every:
            return
        self._written = time.time()
        content = {
            "alive": self._since,
            "step": step,
            "restarts": self.restarts,
            "steps_again": self.steps_again,
            "seconds": self.seconds,
            "marks": self._marks,
        }
        # A disk that is full ends the run at its next save, and says so there.
        with contextlib.suppress(OSError):
            write_json(self._path, content)

    def end(self, step: int) -> None:
        """Write the sums a last time, and tell them, where a step was left to make."""
        self.spent("rest")
        self.write(step, now=True)
        if self._path is not None:
            say(self.describe())

    def shares(self) -> dict[str, float]:
        """Return the share of each kind, by the names of metrics; that of steps is goodput."""
        total = max(sum(self.seconds.values()), 1e-9)
        return {f"perf/share_{kind}": seconds / total for kind, seconds in self.seconds.items()}

    def describe(self) -> str:
        """Return one line of text."""
        total, shares = sum(self.seconds.values()), self.shares()
        parts = [
            f"{100 * shares[f'perf/share_{kind}']:.1f} % {text}"
            for kind, text in KINDS.items()
            if kind != "lost" or self.restarts
        ]
        again = f", {self.steps_again:,} steps made again" if self.steps_again else ""
        times = f" ({self.restarts} of them{again})" if self.restarts else ""
        return f"of {_spell(total)}: {', '.join(parts)}{times}"


def _read(path: Path) -> dict | None:
    """Return what an earlier start wrote; None where nothing did, or nothing that can be read."""
    try:
        found = json.loads(path.read_text())
        fits = (
            found["seconds"].keys() == KINDS.keys() and {"alive", "marks", "step"} <= found.keys()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if fits else None


def _spell(seconds: float) -> str:
    """Spell a time.

    Example:
      >>> _spell(75), _spell(7_500)
      ('75 s', '125 min')
    """
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
