"""Checkpoints: asynchronous, whole, restorable on any mesh; the best and the last are kept.

A step's folder has three items: `params`, `train` (optimiser state and what else only training
needs) and `meta` (config and format). A folder counts only once Orbax has committed it, so a kill
in the middle of a save loses that save and nothing else. The evaluations, which tell the best
checkpoint, lie beside the folders in `evaluations.json`: one that SIGTERM cut short is made up for
by the resumed run, when its checkpoint is written already.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from sir_jax.errors import UserError
from sir_jax.training.config import from_json, to_json
from sir_jax.training.state import TrainState
from sir_jax.training.trees import leaf_paths

FOLDER = "checkpoints"
EVALUATIONS = "evaluations.json"
BEST_METRIC = "val/mean_r1"
FORMAT = 1

_HANDLERS = {
    "params": ocp.PyTreeCheckpointHandler,
    "train": ocp.PyTreeCheckpointHandler,
    "meta": ocp.JsonCheckpointHandler,
}


class KeepBestAndLast(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the newest checkpoint and the one with the highest score, the earlier of equals.

    Orbax's own `BestN` wants the score at the time of the save, and logs a warning where there is
    none.
    """

    def __init__(self):
        self.scores: dict[int, float] = {}

    def best(self, steps) -> int | None:
        """Return which of the steps has the highest score; None where none has one."""
        scored = sorted(step for step in steps if step in self.scores)
        return max(scored, key=self.scores.get, default=None)

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Answer Orbax, which asks before it deletes."""
        del context
        steps = [info.step for info in checkpoints]
        return [step in (max(steps), self.best(steps)) for step in steps]


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
            (workdir / FOLDER).resolve(),
            options=options,
            item_handlers={name: handler() for name, handler in _HANDLERS.items()},
        )
        self._evaluations_path = workdir / FOLDER / EVALUATIONS
        self.configs: dict[int, dict] = {}
        for step in self._manager.all_steps():
            try:
                meta = self._restore(step, meta=ocp.args.JsonRestore())["meta"]
            # A folder whose deletion was cut short has lost some file; which, is Orbax's affair.
            except Exception:  # noqa: BLE001
                continue
            self.configs[step] = meta["config"]
        self.evaluations: dict[int, dict[str, float]] = {}
        if self._evaluations_path.exists():
            stored = json.loads(self._evaluations_path.read_text())
            for step, metrics in ((int(step), metrics) for step, metrics in stored.items()):
                # Those after the last checkpoint will be made again.
                if step <= (self.last or 0):
                    self._note(step, metrics)

    def _note(self, step: int, metrics: dict[str, float]) -> None:
        self.evaluations[step] = metrics
        if BEST_METRIC in metrics:
            self._policy.scores[step] = metrics[BEST_METRIC]

    def _restore(self, step: int, **items) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    @property
    def last(self) -> int | None:
        """Return the newest whole checkpoint's step, or None."""
        return max(self.configs, default=None)

    @property
    def best(self) -> int | None:
        """Return the best evaluated checkpoint's step, or None."""
        return self._policy.best(self.configs)

    def note_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Write down an evaluation; call it before the save of its step, if that is to come."""
        self._note(step, metrics)
        if jax.process_index() == 0:
            part = self._evaluations_path.with_suffix(".part")
            part.write_text(json.dumps(self.evaluations, indent=1) + "\n")
            os.replace(part, self._evaluations_path)

    def save(self, state: TrainState, step: int, cfg: ConfigDict) -> None:
        """Start to write a checkpoint; returns once the arrays are copied off the devices.

        An error of the write before this one is raised here.

        Args:
          state: may be donated as soon as this returns.
          step: `state.step`, known on the host.
          cfg: the run's config.
        """
        if step in self._manager.all_steps():
            # One that could not be read at the start, and whose steps have been made again.
            self._manager.delete(step)
        meta = {"format": FORMAT, "config": to_json(cfg)}
        args = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state.params),
            train=ocp.args.PyTreeSave(_train_item(state)),
            meta=ocp.args.JsonSave(meta),
        )
        self._manager.save(step, args=args, force=True)
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
                    tree, placed[item],
                ),
            )
            for item, tree in wanted.items()
        }  # fmt: skip
        out = self._restore(step, **items)
        return TrainState(params=out["params"], **out["train"])

    def restore_numpy_params(self, step: int) -> dict:
        """Read a checkpoint's parameters as nested dicts of NumPy arrays, needing no mesh."""
        tree = self._manager.item_metadata(step)["params"].tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return self._restore(step, params=args)["params"]

    @property
    def folder(self) -> Path:
        """Return the folder with one sub-folder a step."""
        return Path(self._manager.directory)

    def wait(self) -> None:
        """Block until the last save is committed, raising what went wrong in it."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Finish the last save and let go."""
        self._manager.close()


def _train_item(state: TrainState) -> dict:
    """Return the fields of a state that only training needs."""
    return {
        "step": state.step,
        "ema_params": state.ema_params,
        "opt_state": state.opt_state,
        "queue": state.queue,
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
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError(
            f"{where} does not fit this config's model: {'; '.join(lines[:3])}{more}; "
            "choose another --workdir"
        )


def restore_params(workdir: str | Path, which: str = "best") -> tuple[ConfigDict, dict]:
    """Read the parameters of a run, for evaluation and search.

    Args:
      workdir: the run's folder.
      which: 'best', by `val/mean_r1` of the evaluations during training, or 'last'.

    Returns:
      The run's config and the parameters, nested dicts of NumPy arrays.

    Raises:
      UserError: where there is no such checkpoint.
    """
    if which not in ("best", "last"):
        raise UserError(f"checkpoint {which!r} is neither 'best' nor 'last'")
    if not (Path(workdir) / FOLDER).is_dir():
        raise UserError(
            f"workdir {workdir} has no checkpoints; give the --workdir of a run of `sir-jax train`"
        )
    checkpoints = Checkpoints(Path(workdir), read_only=True)
    try:
        step = getattr(checkpoints, which)
        if step is None:
            others = "; 'last' is there" if checkpoints.last is not None else ""
            raise UserError(f"workdir {workdir} has no {which!r} checkpoint yet{others}")
        return from_json(checkpoints.configs[step]), checkpoints.restore_numpy_params(step)
    finally:
        checkpoints.close()
