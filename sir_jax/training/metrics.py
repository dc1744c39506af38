"""What a run tells: lines on the terminal, a progress bar, metrics.jsonl and TensorBoard."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from sir_jax.errors import UserError
from sir_jax.runtime.console import say
from sir_jax.runtime.files import write_text
from sir_jax.runtime.private import board_is_alive
from sir_jax.runtime.workdir import is_remote

JSONL = "metrics.jsonl"
UPLOAD_EVERY = 30.0  # seconds


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
    # A kill in between must not lose the whole history.
    write_text(path, "".join(lines))


class _Uploaded:
    """A text file in a bucket, where nothing can be appended: written whole, now and then."""

    def __init__(self, path: Path):
        self._path, self._text, self._last = path, path.read_text(), time.monotonic()

    def write(self, line: str) -> None:
        self._text += line

    def flush(self) -> None:
        if time.monotonic() - self._last >= UPLOAD_EVERY:
            self.close()

    def close(self) -> None:
        self._path.write_text(self._text)
        self._last = time.monotonic()


def _summary_writer() -> type:
    """Import tensorboardX's `SummaryWriter`, and not the torch that it draws graphs of.

    Where torch is installed, tensorboardX imports it: seconds, and hundreds of MB, of every start.
    """
    hides = "torch" not in sys.modules
    if hides:
        sys.modules["torch"] = None  # whoever imports it is told that there is none
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hides:
            del sys.modules["torch"]
    return SummaryWriter


class MetricWriter:
    """Write scalars of a step to metrics.jsonl and TensorBoard; only the first process does."""

    def __init__(self, workdir: Path, step: int):
        """Open both, continuing after `step`.

        Args:
          workdir: gets `metrics.jsonl` and, where it is no URL, the folder `tensorboard`.
          step: updates made; records of later ones are removed.
        """
        self._file = self._board = None
        if jax.process_index() != 0:
            return
        self._workdir = workdir
        truncate_records(workdir / JSONL, step)
        if is_remote(workdir):
            self._file = _Uploaded(workdir / JSONL)
            say(f"no TensorBoard events in {workdir}, as that is no local folder; see {JSONL}")
            return
        self._file = open(workdir / JSONL, "a")
        # TensorBoard hides events from purge_step on that an earlier process wrote.
        purge = step + 1 if step else None
        self._board = _summary_writer()(str(workdir / "tensorboard"), purge_step=purge)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write one record: an object with `step` and the scalars, by their paths."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            # Flushed to the system, so that SIGKILL loses no line.
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        for name, value in scalars.items() if self._board else ():
            # Without its thread, which an error ends, the board's queue would fill and block.
            if not board_is_alive(self._board):
                raise self._unwritable("TensorBoard's events were refused")
            self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Have every record written; call it before a checkpoint that resumes after them."""
        if isinstance(self._file, _Uploaded):
            self._file.close()

    def _unwritable(self, why: str) -> UserError:
        return UserError(
            f"metrics cannot be written to {self._workdir} ({why}); make room there, then run the "
            "same command again"
        )

    def close(self) -> None:
        """Close both files."""
        if self._file is not None:
            # What did not get to the disk was told of by `write`.
            with contextlib.suppress(OSError):
                self._file.close()
            if self._board is not None and board_is_alive(self._board):
                self._board.close()


class Progress:
    """A bar with ETA, loss and examples/s, and the clock behind `perf/examples_per_s`."""

    def __init__(self, start: int, total: int, batch_size: int):
        """Start at update `start` of `total`, each of `batch_size` examples."""
        from tqdm import tqdm

        # Into a file, a line a half minute; on a terminal, twice a second.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=total,
            initial=start,
            desc="train",
            unit="step",
            mininterval=interval,
            disable=jax.process_index() != 0,
            dynamic_ncols=True,
        )
        self._batch_size = batch_size
        self._steps = self._waited = self._at_peak = 0.0
        self._since = time.perf_counter()

    def data_wait(self, seconds: float) -> None:
        """Count time in which the step waited for its batch."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during the `with` block, as for an evaluation or a save."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def update(self, loss: float, at_peak: float = 0.0) -> None:
        """Count one update, which takes `at_peak` seconds at the devices' peak; 0: not known."""
        self._steps += 1
        self._at_peak += at_peak
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = self._steps * self._batch_size / seconds
        text = f"loss={loss:.4f}, {speed:.1f} examples/s"
        # refresh=False: the bar redraws at its own interval.
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def rates(self) -> dict[str, float]:
        """Return speeds since the last call.

        Returns:
          Examples a second, share of time without a batch and, where the devices' peak is known,
          the share of it that the model's own operations make (MFU).
        """
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rates = {
            "perf/examples_per_s": self._steps * self._batch_size / seconds,
            "perf/data_wait_share": min(self._waited / seconds, 1.0),
        }
        if self._at_peak:
            rates["perf/mfu"] = self._at_peak / seconds
        self._steps = self._waited = self._at_peak = 0.0
        self._since = now
        return rates

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
