"""Checkpoints: asynchronous, whole, restorable on any mesh; the best and the last two are kept.

A step's folder has three items: `params` (those to evaluate), `train` (optimiser state and what
else only training needs) and `meta` (config and format); where epochs are dealt in groups also
`order`, what the dealer knows. A folder counts only once Orbax has committed it, so a kill
in the middle of a save loses that save and nothing else. One that has lost bytes since then is
found when a run starts (`integrity`), and the one before it, kept for that, is used. The
evaluations, which tell the best checkpoint, lie beside the folders in `evaluations.json`: one that
SIGTERM cut short is made up for by the resumed run, when its checkpoint is written already.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from sir_jax.config.compare import to_json
from sir_jax.errors import UserError, first_few
from sir_jax.inference.integrity import find_faults, tell_faults
from sir_jax.runtime import distributed
from sir_jax.runtime.files import write_json
from sir_jax.runtime.trees import leaf_paths, overlay, restrict
from sir_jax.runtime.workdir import CHECKPOINTS, EVALUATIONS, as_path, best_step, read_evaluations
from sir_jax.training.state import TrainState, schedule_free_state, shown_params

FORMAT = 1

_HANDLERS = {
    "params": ocp.PyTreeCheckpointHandler,
    "train": ocp.PyTreeCheckpointHandler,
    "meta": ocp.JsonCheckpointHandler,
    "order": ocp.PyTreeCheckpointHandler,
}


class KeepBestAndLast(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the two newest checkpoints and the one with the highest score, the earlier of equals.

    A file can lose its end after the commit, when nothing that verified the save looks any more.

    Orbax's own `BestN` wants the score at the time of the save, and logs a warning where there is
    none.
    """

    def __init__(self):
        self.evaluations: dict[int, dict[str, float]] = {}

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Answer Orbax, which asks before it deletes."""
        del context
        steps = [info.step for info in checkpoints]
        kept = (*sorted(steps)[-2:], best_step(self.evaluations, steps))
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: Path, read_only: bool = False):
        """Open the folder and read what is there.

        Args:
          workdir: the run's folder.
          read_only: neither create the folder nor tidy up what a killed process left.
        """
        self._policy = KeepBestAndLast()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            (workdir / CHECKPOINTS).resolve(),
            options=options,
            item_handlers={name: handler() for name, handler in _HANDLERS.items()},
        )
        self._saving, self._writing = False, None  # whether, and the newest step that was
        self._evaluations_path = workdir / CHECKPOINTS / EVALUATIONS
        self.configs: dict[int, dict] = {}
        faults = self._find_faults()
        for step in self._manager.all_steps():
            if step not in faults:
                meta = self._restore(step, meta=ocp.args.JsonRestore())["meta"]
                self.configs[step] = meta["config"]
        tell_faults(self.folder, faults, self.last)
        self.evaluations = self._policy.evaluations
        self.evaluations |= read_evaluations(workdir / CHECKPOINTS, self.last or 0)

    def _find_faults(self) -> dict[int, str]:
        """Return what the checkpoints lack, by step, as the first process sees it."""
        faults = {}
        if distributed.is_first():
            faults = find_faults(self.folder, self._manager.all_steps())
        # A list, as JSON has no numbers for names.
        return dict(distributed.from_first("faults", [*faults.items()]))

    def _restore(self, step: int, **items) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    @property
    def last(self) -> int | None:
        """Return the newest whole checkpoint's step, or None."""
        return max(self.configs, default=None)

    @property
    def best(self) -> int | None:
        """Return the best evaluated checkpoint's step, or None."""
        return best_step(self.evaluations, self.configs)

    def note_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Write down an evaluation; call it before the save of its step, if that is to come."""
        self.evaluations[step] = metrics
        if jax.process_index() == 0:
            write_json(self._evaluations_path, self.evaluations, indent=1)

    def save(
        self, state: TrainState, step: int, cfg: ConfigDict, order: dict[str, Any] | None = None
    ) -> None:
        """Start to write a checkpoint; returns once the arrays are copied off the devices.

        Args:
          state: may be donated as soon as this returns.
          step: `state.step`, known on the host.
          cfg: the run's config.
          order: `Dealer.state`, the same in every process; None without a dealer.

        Raises:
          UserError: this write or the one before it has failed.
        """
        self.wait()
        self._saving, self._writing = True, step
        with self._mendable():
            self._save(state, step, cfg, order)

    def _save(self, state: TrainState, step: int, cfg: ConfigDict, order: dict | None) -> None:
        if step in self._manager.all_steps():
            # One that could not be read at the start, and whose steps have been made again.
            self._manager.delete(step)
        meta = {"format": FORMAT, "config": to_json(cfg)}
        args = {
            "params": ocp.args.PyTreeSave(shown_params(state)),
            "train": ocp.args.PyTreeSave(_train_item(state)),
            "meta": ocp.args.JsonSave(meta),
        }
        if order is not None:
            args["order"] = ocp.args.PyTreeSave(order)
        self._manager.save(step, args=ocp.args.Composite(**args), force=True)
        self.configs = {
            old: c for old, c in self.configs.items() if old in self._manager.all_steps()
        }
        self.configs[step] = meta["config"]

    def restore(self, step: int, abstract: TrainState, shardings: TrainState) -> TrainState:
        """Read a whole state onto the mesh of `shardings`, whatever mesh wrote it.

        Args:
          step: which checkpoint.
          abstract: shapes and types that the model of this config has.
          shardings: where each leaf goes.

        Raises:
          UserError: where the checkpoint is of another model, naming the leaves.
        """
        self.wait()
        wanted = {"params": abstract.params, "train": _train_item(abstract)}
        placed = {"params": shardings.params, "train": _train_item(shardings)}
        stored = self._manager.item_metadata(step)
        for item, tree in wanted.items():
            check_same_tree(stored[item].tree, tree, f"checkpoint {step} of {self.folder}: {item}")
        items = {
            item: ocp.args.PyTreeRestore(
                item=tree,
                restore_args=jax.tree.map(
                    lambda leaf, sharding: ocp.ArrayRestoreArgs(
                        sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype
                    ),
                    tree,
                    placed[item],
                ),
            )
            for item, tree in wanted.items()
        }
        out = self._restore(step, **items)
        trained = out["train"].pop("trained", {})
        return TrainState(params=overlay(out["params"], trained), **out["train"])

    def restore_order(self, step: int) -> dict[str, Any]:
        """Read what `save` got as `order`, as NumPy arrays.

        Raises:
          UserError: there is none.
        """
        if "order" not in self._manager.item_metadata(step):
            raise UserError(
                f"checkpoint {step} of {self.folder} has no order of batches, which data.groups "
                "needs; choose another workdir"
            )
        return self._restore(step, order=ocp.args.PyTreeRestore())["order"]

    @property
    def folder(self) -> Path:
        """Return the folder with one sub-folder a step."""
        return as_path(self._manager.directory)

    def check(self) -> None:
        """Raise what went wrong in a save that runs in the background; does not wait for it.

        Raises:
          UserError: the write has failed.
        """
        # The manager's own check does not see what its thread has raised.
        if self._saving and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Block until the last save is committed.

        Raises:
          UserError: the write has failed.
        """
        self._saving = False
        with self._mendable():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _mendable(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise  # of the devices or a peer that is gone; `distributed.job` finds out
        # Of a full disk, TensorStore and the file system each have an error of their own.
        except Exception as error:
            kept = [step for step in sorted(self.configs) if step != self._writing]
            good = f"the checkpoint of step {kept[-1]} is whole" if kept else "none is whole yet"
            raise UserError(
                f"the checkpoint of step {self._writing} could not be written to {self.folder} "
                f"({str(error).strip().splitlines()[0][:200]}); {good}; make room or mend what it "
                "says, then run the same command again"
            ) from error

    def close(self) -> None:
        """Finish the last save and let go; `wait` first to learn of its errors."""
        with contextlib.suppress(Exception):
            self._manager.close()


def _train_item(state: TrainState) -> dict:
    """Return the fields of a state that only training needs.

    Where `shown_params` are others than those that are trained, these are among them.
    """
    averaged = schedule_free_state(state.opt_state)
    trained = {} if averaged is None else {"trained": restrict(state.params, averaged.z)}
    return {
        "step": state.step,
        "ema_params": state.ema_params,
        "opt_state": state.opt_state,
        "queue": state.queue,
        **trained,
    }


def check_same_tree(stored: Any, wanted: Any, where: str) -> None:
    """Compare a checkpoint's leaves with the ones a model has, by path, shape and type.

    Orbax would pad, cut or cast some mismatches in silence, and print whole trees for others.

    Args:
      stored: Orbax's metadata; its containers may be dicts and lists for any other.
      wanted: arrays or shapes.
      where: what the message begins with.

    Raises:
      UserError: with the number of leaves that differ and the first three of them.
    """

    def describe(leaf) -> str:
        return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"

    a = {path: describe(leaf) for path, leaf in leaf_paths(stored).items()}
    b = {path: describe(leaf) for path, leaf in leaf_paths(wanted).items()}
    lines = [
        f"{path} is {a.get(path, 'missing')} there and {b.get(path, 'unknown')} here"
        for path in sorted(a.keys() | b.keys())
        if a.get(path) != b.get(path)
    ]
    if lines:
        raise UserError(
            f"{where} does not fit this config's model: {first_few(lines)}; choose another workdir"
        )
