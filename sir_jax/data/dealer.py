"""The dealer: keeps the embeddings that training computes, and deals epochs in groups by them.

It lives in every process of a job, and all of them come to the same orders. What it knows belongs
to the checkpoint: the embeddings, and the orders of epochs that are not at their end.
"""

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.data.corpus import Split
from sir_jax.data.epochs import Epochs, Orders, Schedule
from sir_jax.data.groups import GroupSpec, Vectors, deal_epoch
from sir_jax.data.pipeline import BatchSpec
from sir_jax.errors import UserError
from sir_jax.runtime.console import say

# Seconds that an end waits for a deal that nobody needs any more.
_LAST_WAIT = 1.0


class Dealer:
    """Embeddings of a split, kept up to date, and the orders that are dealt by them."""

    def __init__(self, split: Split, cfg: Any, step: int, row_order: np.ndarray, stored: Any):
        """Begin, or go on from a checkpoint.

        Args:
          split: the split that is trained on.
          cfg: the whole config, with `data.groups`.
          step: steps made so far.
          row_order: which row of a global batch each row on the devices holds, [B].
          stored: from `state`; None at step 0.

        Raises:
          UserError: `stored` is not of this split or step.
        """
        self._index, self._seed = split.index, int(cfg.seed)
        self._spec, batch = GroupSpec.from_config(cfg), BatchSpec.from_config(cfg.data)
        self._batch_size, self._buckets = batch.batch_size, batch.buckets
        per_epoch = len(split.index) // batch.batch_size
        self._schedule = Schedule(per_epoch, self._spec.after, int(cfg.train.steps))
        self._row_order = row_order
        shapes = [(n, int(cfg.model.embed_width)) for n in (len(split.index), len(split))]
        self._vectors = Vectors(*(np.zeros(shape, np.int8) for shape in shapes))
        self._dealing: dict[int, threading.Thread] = {}
        self._dealt: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if stored is not None:
            self._go_on(stored, step)
        self.orders = Orders(Path(tempfile.mkdtemp(prefix="sir_jax-order-")), self._schedule)
        self._epochs = Epochs(
            split.index, batch.batch_size, batch.buckets, batch.augment, self._seed, self.orders
        )
        for epoch, order in self._dealt.items():
            self.orders.put(epoch, *order)

    def _go_on(self, stored: Any, step: int) -> None:
        for name, ours in self._vectors._asdict().items():
            theirs = np.asarray(stored[name])
            if theirs.shape != ours.shape:
                raise UserError(
                    f"the checkpoint of step {step} has {name} embeddings {list(theirs.shape)}, "
                    f"and this corpus and model have {list(ours.shape)}; choose another workdir"
                )
            ours[:] = theirs
        dealt = {int(epoch): order for epoch, order in stored.get("orders", {}).items()}
        for epoch in self._schedule.open_epochs(step):
            if epoch not in dealt:
                raise UserError(
                    f"the checkpoint of step {step} lacks the order of epoch {epoch}; choose "
                    "another workdir"
                )
            order = dealt[epoch]
            self._dealt[epoch] = np.asarray(order["items"]), np.asarray(order["bucket"])

    def note(self, step: int, speech: np.ndarray, image: np.ndarray) -> None:
        """Keep the embeddings of a step, and deal what is due.

        Args:
          step: number of the step, from 1; every step is noted, in order.
          speech: int8 [B, E], of the rows as they lie on the devices.
          image: int8 [B, E].
        """
        epoch, at = divmod(step - 1, self._schedule.per_epoch)
        captions = self._epochs[epoch].items[at][self._row_order]
        self._vectors.speech[captions] = speech
        self._vectors.image[self._index["row"][captions]] = image
        for epoch in self._schedule.due(step):
            # A copy, as the steps that follow are noted meanwhile.
            copy = Vectors(*(x.copy() for x in self._vectors))
            thread = threading.Thread(target=self._deal, args=(epoch, copy), daemon=True)
            self._dealing[epoch] = thread
            thread.start()
        for epoch in [e for e in self._dealt if (e + 1) * self._schedule.per_epoch <= step]:
            del self._dealt[epoch]
            self._dealing.pop(epoch, None)
            self.orders.drop(epoch)

    def _deal(self, epoch: int, vectors: Vectors) -> None:
        try:
            samples, _ = self._epochs.lengths(epoch)
            order = deal_epoch(
                samples,
                self._index,
                self._buckets,
                self._batch_size,
                self._seed,
                epoch,
                self._spec,
                vectors,
            )
            self._dealt[epoch] = order
            self.orders.put(epoch, *order)
        except Exception as error:  # noqa: BLE001
            if self.orders.folder.exists():  # the run goes on, and would wait for ever
                say(f"epoch {epoch} cannot be dealt in groups: {error!r}")
                self.orders.fail(repr(error))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint of the last step that was noted holds: a tree of arrays.

        Raises:
          UserError: an epoch could not be dealt.
        """
        for epoch, thread in self._dealing.items():
            thread.join()
            if epoch not in self._dealt:
                self.orders.wait(epoch)  # raises
        self._dealing = {}
        orders = {
            str(epoch): {"items": items.astype(np.int32), "bucket": bucket.astype(np.int32)}
            for epoch, (items, bucket) in sorted(self._dealt.items())
        }
        vectors = {name: x.copy() for name, x in self._vectors._asdict().items()}
        return {**vectors, **({"orders": orders} if orders else {})}

    def close(self) -> None:
        """Let go of all who wait for an order, and remove its files."""
        shutil.rmtree(self.orders.folder, ignore_errors=True)
        for thread in self._dealing.values():
            thread.join(_LAST_WAIT)
