"""The parameters of a training run, read from its workdir without anything that trains.

Orbax reads the arrays; it is a part of [train], so that it is imported only here and only then.
"""

import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from sir_jax.config.compare import read_stored
from sir_jax.errors import UserError
from sir_jax.runtime.workdir import (
    CHECKPOINTS,
    as_path,
    best_step,
    check_reachable,
    read_evaluations,
)


def restore_params(workdir: str | Path, which: str = "best") -> tuple[ConfigDict, dict]:
    """Read the parameters of a run, for evaluation and search.

    Args:
      workdir: the run's folder.
      which: 'best', by `val/mean_r1` of the evaluations during training, or 'last'.

    Returns:
      The run's config and the parameters, nested dicts of NumPy arrays.

    Raises:
      UserError: where there is no such checkpoint, or Orbax is not installed.
    """
    if which not in ("best", "last"):
        raise UserError(f"checkpoint {which!r} is neither 'best' nor 'last'")
    check_reachable(as_path(workdir))
    # Orbax reads no metadata by a relative path.
    folder = (as_path(workdir) / CHECKPOINTS).resolve()
    if not folder.is_dir():
        raise UserError(
            f"workdir {workdir} has no checkpoints; give the workdir of a run of `sir-jax train`"
        )
    try:
        import orbax.checkpoint as ocp
    except ModuleNotFoundError as error:
        raise UserError(
            f"workdir {workdir}: reading a training run needs {error.name}; "
            "pip install 'sir_jax[train]', or `sir-jax export` it where that is installed"
        ) from None
    # Needs TensorStore, which comes with Orbax.
    from sir_jax.inference.integrity import find_faults, tell_faults

    there = ocp.utils.checkpoint_steps(folder)
    faults = find_faults(folder, there)
    steps = [step for step in there if step not in faults]
    last = max(steps, default=None)
    tell_faults(folder, faults, last)
    step = last if which == "last" else best_step(read_evaluations(folder, last or 0), steps)
    if step is None:
        others = "; 'last' is there" if last is not None else ""
        raise UserError(f"workdir {workdir} has no {which!r} checkpoint yet{others}")
    meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
    cfg = read_stored(meta["config"], f"checkpoint {step} of {workdir}")
    with ocp.PyTreeCheckpointer() as checkpointer:
        path = folder / str(step) / "params"
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        params = checkpointer.restore(path, restore_args=as_numpy)
    return cfg, params
