"""The training state: arrays only; the model, the optimiser and the config stay outside."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sir_jax.models import SpeechImageModel, init_params
from sir_jax.training.trees import check_patterns, leaf_paths, merge_trees, split_tree


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint holds."""

    step: jax.Array  # int32 []: updates made, and global batches drawn
    params: Any  # nested dict, float32; frozen leaves as `optim.frozen_dtype` says
    ema_params: Any  # the teacher's sub-trees, float32; None without a teacher
    opt_state: Any  # of the trainable leaves only
    queue: Any  # past embeddings; None without a queue


def init_state(
    key: jax.Array, *, model: SpeechImageModel, tx: optax.GradientTransformation, cfg
) -> TrainState:
    """Create the state at step 0; call it under `jax.jit` with `out_shardings`.

    Args:
      key: of the parameters' initial values.
      model: from `build_model`.
      tx: from `make_optimizer`.
      cfg: the whole config; `optim.freeze` and `optim.frozen_dtype` are used.
    """
    params = init_params(model, key)
    trainable, frozen = split_tree(params, cfg.optim.freeze)
    frozen = jax.tree.map(lambda p: p.astype(cfg.optim.frozen_dtype), frozen)
    params = merge_trees(trainable, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=None,
        opt_state=tx.init(trainable),
        queue=None,
    )


def check_param_patterns(params: Any, cfg) -> None:
    """Refuse freeze and decay patterns that name no parameter of this model.

    Raises:
      UserError: see `trees.check_patterns`.
    """
    check_patterns(cfg.optim.freeze, params, "optim.freeze")
    check_patterns(cfg.optim.no_decay, params, "optim.no_decay")


def count_params(params: Any, freeze: tuple[str, ...]) -> tuple[int, int]:
    """Return (trainable, frozen) numbers of parameters."""
    rest, frozen = split_tree(params, freeze)
    trainable, still = (sum(leaf.size for leaf in leaf_paths(t).values()) for t in (rest, frozen))
    return trainable, still
