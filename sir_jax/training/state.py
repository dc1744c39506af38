"""The training state: arrays only; the model, the optimiser and the config stay outside."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sir_jax.config.rules import read_rate
from sir_jax.config.specs import MODALITIES, TEMPERATURE_RANGE
from sir_jax.losses.queue import Queue, empty_queue
from sir_jax.models import SpeechImageModel, init_params
from sir_jax.objective.switches import (
    TEACHER_PARTS,
    frozen_patterns,
    has_teacher,
    is_frozen,
    queue_size,
)
from sir_jax.runtime import distributed
from sir_jax.runtime.sharding import tree_shardings
from sir_jax.runtime.trees import (
    check_patterns,
    leaf_paths,
    merge_trees,
    overlay,
    restrict,
    split_tree,
)


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint holds."""

    step: jax.Array  # int32 []: updates made, and global batches drawn
    params: Any  # nested dict, float32; frozen leaves as `optim.frozen_dtype` says
    ema_params: Any  # the teacher's trained leaves, float32; None without a teacher
    opt_state: Any  # of the trainable leaves only
    queue: Queue | None  # past momentum embeddings


def init_state(
    key: jax.Array, *, model: SpeechImageModel, tx: optax.GradientTransformation, cfg
) -> TrainState:
    """Create the state at step 0; call it under `jax.jit` with `out_shardings`.

    Args:
      key: of the parameters' initial values.
      model: from `build_model`.
      tx: from `make_optimizer`.
      cfg: the whole config; `loss`, `optim.freeze` and `optim.frozen_dtype` are used.
    """
    params = init_params(model, key)
    trainable, frozen = split_tree(params, frozen_patterns(cfg))
    frozen = jax.tree.map(lambda p: p.astype(cfg.optim.frozen_dtype), frozen)
    params = merge_trees(trainable, frozen)
    size = queue_size(cfg.loss)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=init_ema(params, cfg),
        opt_state=tx.init(trainable),
        queue=empty_queue(size, model.embed_width) if size else None,
    )


def init_ema(params: dict, cfg) -> dict | None:
    """Copy the leaves that have a teacher, trained ones alone; None where no term wants one.

    Copied, not aliased: the state is donated, and one buffer cannot be given away twice.
    """
    if not has_teacher(cfg.loss):
        return None
    trainable, _ = split_tree(params, frozen_patterns(cfg))
    _, taught = split_tree(trainable, TEACHER_PARTS)
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), taught)


def update_ema(ema_params: dict | None, params: dict, momentum: float) -> dict | None:
    """Return momentum * ema + (1 - momentum) * params for the leaves that have a teacher."""
    if ema_params is None:
        return None
    taught = jax.tree.map(lambda p: p.astype(jnp.float32), restrict(params, ema_params))
    # Seen as a step from the parameters to their mean: the other way round XLA, which fuses one of
    # the two products with the sum, would round otherwise than in the runs that there are.
    return optax.incremental_update(ema_params, taught, momentum)


def schedule_free_state(opt_state: Any) -> Any | None:
    """Return the state of a schedule-free optimiser, arrays or whatever else; None without one."""
    kind = optax.contrib.ScheduleFreeState
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return next((node for node in found if isinstance(node, kind)), None)


def shown_params(state: TrainState) -> dict:
    """Return the parameters to evaluate and to give away.

    A schedule-free optimiser averages them, and has its gradients taken elsewhere: at `params`.
    """
    averaged = schedule_free_state(state.opt_state)
    if averaged is None:
        return state.params
    trained = restrict(state.params, averaged.z)
    return overlay(state.params, distributed.run_together(_average, averaged, trained))


@jax.jit
def _average(averaged, trained: dict) -> dict:
    return project_params(optax.contrib.schedule_free_eval_params(averaged, trained))


def project_params(params: dict) -> dict:
    """Clamp the temperature into its range, if it is among the parameters."""
    if "temperature" not in params:
        return params
    return {**params, "temperature": jnp.clip(params["temperature"], *TEMPERATURE_RANGE)}


def state_shardings(state: TrainState, mesh: Mesh, cfg) -> TrainState:
    """Lay a state on a mesh: by the table of `sharding`, but small frozen encoders whole.

    A sharded encoder is gathered once a pass, which saves memory and costs traffic. What is frozen
    has neither gradient nor optimiser state, so that a copy on each device is cheap.

    Args:
      state: arrays or shapes.
      mesh: where it goes.
      cfg: the whole config; `mesh.frozen_whole` is the limit, in GiB of one encoder.
    """
    whole = []
    for modality in MODALITIES:
        leaves = leaf_paths(state.params[modality]).values()
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        if is_frozen(state.params, modality, cfg) and size <= cfg.mesh.frozen_whole * 2**30:
            whole.append(f"params/{modality}")
    return tree_shardings(state, mesh, tuple(whole))


def check_param_patterns(params: Any, cfg) -> None:
    """Refuse patterns of freezing, decay and rates that name no parameter of this model.

    Raises:
      UserError: see `trees.check_patterns`.
    """
    check_patterns(cfg.optim.freeze, params, "optim.freeze")
    check_patterns(cfg.optim.no_decay, params, "optim.no_decay")
    check_patterns([read_rate(item)[0] for item in cfg.optim.rates], params, "optim.rates")


def count_params(params: Any, frozen: tuple[str, ...]) -> tuple[int, int]:
    """Return (trainable, frozen) numbers of parameters."""
    rest, frozen = split_tree(params, frozen)
    trainable, still = (sum(leaf.size for leaf in leaf_paths(t).values()) for t in (rest, frozen))
    return trainable, still
