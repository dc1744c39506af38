"""What a run tells: lines on the terminal, a progress bar, metrics.jsonl and TensorBoard."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax

JSONL = "metrics.jsonl"


def say(line: str) -> None:
    """Print a line on the first process, above the progress bar where there is one."""
    if jax.process_index() == 0:
        from tqdm import tqdm

        tqdm.write(line)
        sys.stdout.flush()


def read_records(path: Path) -> list[dict]:
    """Read metrics.jsonl, leaving out a last line that a killed process wrote in part."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().split("\n"):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def truncate_records(path: Path, step: int) -> None:
    """Drop what metrics.jsonl tells of updates after `step`, as they will be made again."""
    lines = [json.dumps(r) + "\n" for r in read_records(path) if r["step"] <= step]
    part = path.with_suffix(".part")
    part.write_text("".join(lines))
    # Replaced in one move: a kill in between must not lose the whole history.
    os.replace(part, path)


class MetricWriter:
    """Write scalars of a step to metrics.jsonl and TensorBoard; only the first process does."""

    def __init__(self, workdir: Path, step: int):
        """Open both, continuing after `step`.

        Args:
          workdir: gets `metrics.jsonl` and the folder `tensorboard`.
          step: updates made; records of later ones are removed.
        """
        self._file = self._board = None
        if jax.process_index() != 0:
            return
        # Takes seconds, so not at module import.
        from tensorboardX import SummaryWriter

        truncate_records(workdir / JSONL, step)
        self._file = open(workdir / JSONL, "a")
        # TensorBoard hides events from purge_step on that an earlier process wrote.
        purge = step + 1 if step else None
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write one record: an object with `step` and the scalars, by their paths."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        # Flushed to the system, so that SIGKILL loses no line.
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close both files."""
        if self._file is not None:
            self._file.close()
            self._board.close()


class Progress:
    """A bar with ETA, loss and examples/s, and the clock behind `perf/examples_per_s`."""

    def __init__(self, start: int, total: int, batch_size: int):
        """Start at update `start` of `total`, each of `batch_size` examples."""
        from tqdm import tqdm

        # Into a file, a line a half minute; on a terminal, twice a second.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=total, initial=start, desc="train", unit="step", mininterval=interval,
            disable=jax.process_index() != 0, dynamic_ncols=True,
        )  # fmt: skip
        self._batch_size = batch_size
        self._steps = self._waited = 0.0
        self._since = time.perf_counter()
        self._paused = None

    def data_wait(self, seconds: float) -> None:
        """Count time in which the step waited for its batch."""
        self._waited += seconds

    def pause(self) -> None:
        """Stop the clock, before an evaluation or a save."""
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._since += time.perf_counter() - self._paused

    def update(self, loss: float) -> None:
        """Count one update."""
        self._steps += 1
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = self._steps * self._batch_size / seconds
        text = f"loss={loss:.4f}, {speed:.1f} examples/s"
        # refresh=False: the bar redraws at its own interval.
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def rates(self) -> dict[str, float]:
        """Return speeds since the last call: examples a second, share of time without a batch."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rates = {
            "perf/examples_per_s": self._steps * self._batch_size / seconds,
            "perf/data_wait_share": min(self._waited / seconds, 1.0),
        }
        self._steps = self._waited = 0.0
        self._since = now
        return rates

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
