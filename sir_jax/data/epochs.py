"""The order of every epoch: at random, or dealt in groups of look-alikes by the one who trains.

An order at random follows from seed and epoch, so that whoever reads batches makes it. One in
groups depends on what the model has learnt: the training process deals it and puts it into a file,
for which threads and worker processes wait.
"""

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment import AugmentSpec
from sir_jax.data.plan import plan_epoch
from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file, write_text

# Of the random streams of one seed; `plan`, `groups` and `pipeline` have the others.
_SILENCE_STREAM = 3

_WAIT_SECONDS = 0.01
_FAILED = "failed"


class Plan(NamedTuple):
    """An epoch's batches and their buckets, see `plan_epoch`; each caption's silence in seconds."""

    items: np.ndarray
    bucket: np.ndarray
    silence: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which epochs are dealt in groups, and when.

    An epoch is dealt some steps before its first one, so that dealing it and reading its first
    batches cost no step any time. How many follows from the length of an epoch alone: a machine's
    threads must not change the order. What these last steps would tell, their captions' embeddings
    of the epoch before tell as well.

    Attributes:
      per_epoch: batches in an epoch.
      after: steps that come at random first.
      total: steps of the whole run.
    """

    per_epoch: int
    after: int
    total: int

    def is_grouped(self, epoch: int) -> bool:
        """Tell whether an epoch is dealt in groups."""
        begins = epoch * self.per_epoch
        return self.after <= begins < self.total and self.deal_step(epoch) > 0

    def deal_step(self, epoch: int) -> int:
        """Return after how many steps of the run an epoch is dealt; in groups where above 0."""
        return epoch * self.per_epoch - max(2, self.per_epoch // 8)

    def due(self, step: int) -> list[int]:
        """Return the epochs that are dealt once `step` steps are made, in order."""
        ahead = step - self.deal_step(0)
        epoch, rest = divmod(ahead, self.per_epoch)
        return [epoch] if not rest and self.is_grouped(epoch) else []

    def open_epochs(self, step: int) -> list[int]:
        """Return the epochs that are dealt by `step` and have batches left, in order."""
        last = (step - self.deal_step(0)) // self.per_epoch
        return [e for e in range(step // self.per_epoch, last + 1) if self.is_grouped(e)]


@dataclasses.dataclass(frozen=True)
class Orders:
    """The orders of epochs in groups, in the files of a folder on this machine; picklable.

    Attributes:
      folder: one file an epoch. Once it is gone nobody waits any more.
      schedule: tells which epochs are in groups.
    """

    folder: Path
    schedule: Schedule

    def put(self, epoch: int, items: np.ndarray, bucket: np.ndarray) -> None:
        """Hand out an epoch's order, as `plan_epoch` returns it."""
        with whole_file(self._path(epoch)) as part, open(part, "wb") as file:
            np.savez(file, items=items.astype(np.int32), bucket=bucket.astype(np.int32))

    def fail(self, text: str) -> None:
        """Have all who wait stop with a message."""
        write_text(self.folder / _FAILED, text)

    def drop(self, epoch: int) -> None:
        """Remove an order that nobody reads any more."""
        self._path(epoch).unlink(missing_ok=True)

    def wait(self, epoch: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return an epoch's order once it is dealt; None where the epoch is at random.

        Raises:
          UserError: it will never be.
        """
        if not self.schedule.is_grouped(epoch):
            return None
        path, failed = self._path(epoch), self.folder / _FAILED
        while not path.exists():
            if failed.exists():
                raise UserError(f"epoch {epoch} cannot be dealt in groups: {failed.read_text()}")
            if not self.folder.exists():
                raise UserError(f"epoch {epoch} is not dealt: the run has ended")
            time.sleep(_WAIT_SECONDS)
        with np.load(path) as stored:
            return stored["items"], stored["bucket"]

    def _path(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.npz"


class Epochs:
    """The plans of all epochs, by number; picklable, and safe among threads."""

    def __init__(
        self,
        index: np.ndarray,
        batch_size: int,
        buckets: tuple[int, ...],
        augment: AugmentSpec,
        seed: int,
        orders: Orders | None = None,
    ):
        """Make none yet.

        Args:
          index: `Split.index`.
          batch_size: captions in a global batch.
          buckets: lengths in samples, ascending.
          augment: of which silence takes room in a bucket.
          seed: seed of the run.
          orders: of the epochs in groups; None where all are at random.
        """
        self._index, self._batch_size, self._buckets = index, batch_size, buckets
        self._augment, self._seed, self._orders = augment, seed, orders
        self._plans: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __getitem__(self, epoch: int) -> Plan:
        """Return an epoch's plan; waits for one that is being dealt."""
        plan = self._plans.get(epoch)
        if plan is not None:
            return plan
        # Outside the lock: the batches before, which bring the deal about, need their own plan.
        dealt = self._orders.wait(epoch) if self._orders else None
        with self._lock:
            if epoch not in self._plans:
                # Prefetching threads work on at most two epochs at a time.
                self._plans = {e: p for e, p in self._plans.items() if e == epoch - 1}
                self._plans[epoch] = self._make(epoch, dealt)
            return self._plans[epoch]

    def lengths(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return each caption's samples with its silence, and the silence in seconds [n, 3]."""
        samples = self._index["samples"]
        if not self._augment.silence:
            return samples, None
        # Drawn before the buckets are chosen, so that clips go where their silence has room.
        stream = np.random.default_rng((self._seed, _SILENCE_STREAM, epoch))
        silence = self._augment.draw_silence(len(samples), stream)
        added = np.ceil(silence.sum(1) * SAMPLE_RATE).astype(samples.dtype)
        return samples + added, silence

    def _make(self, epoch: int, dealt: tuple[np.ndarray, np.ndarray] | None) -> Plan:
        samples, silence = self.lengths(epoch)
        if dealt is None:
            ids = self._index["image_id"]
            dealt = plan_epoch(samples, ids, self._buckets, self._batch_size, self._seed, epoch)
        return Plan(*dealt, silence)
