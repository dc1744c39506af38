"""One update: loss, gradient, optimiser, projection, teacher and queue. All pure."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sir_jax.data.groups import pack_rows
from sir_jax.losses.queue import push
from sir_jax.objective.gradient import loss_and_grads
from sir_jax.objective.switches import frozen_patterns
from sir_jax.objective.total import Objective
from sir_jax.runtime.sharding import batch_sharding, replicated, row_shards
from sir_jax.runtime.trees import merge_trees, split_tree
from sir_jax.training.optimizer import make_schedule
from sir_jax.training.state import TrainState, project_params, update_ema
from sir_jax.training.stored_features import bucket_frames, image_tokens, speech_states

Array = jax.Array

# The fields of a batch that a step reads without stored features. `caption_ids` stay on the host,
# for error messages.
STEP_FIELDS = ("wave", "lengths", "pixels", "image_ids")

# By platform: the compiler's options that `train.overlap` sets, and why. Only what lets collectives
# run at the same time as arithmetic is here; values stay the same. The TPU's are those that MaxText
# publishes (benchmarks/xla_flags_library.py), the GPU's are among NVIDIA's tips for JAX.
OVERLAP: dict[str, dict[str, tuple[bool, str]]] = {
    "tpu": {
        "xla_enable_async_all_gather": (True, "an all-gather may start before it is needed"),
        "xla_tpu_enable_async_collective_fusion": (True, "products run while a collective does"),
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": (True, "all-gathers, too"),
        "xla_tpu_enable_async_collective_fusion_multiple_steps": (True, "over several products"),
        "xla_tpu_overlap_compute_collective_tc": (True, "the core computes while links send"),
        "xla_tpu_enable_data_parallel_all_reduce_opt": (
            True,
            "a layer's gradient is sent while the layer before it computes its own",
        ),
        "xla_tpu_data_parallel_opt_different_sized_ops": (True, "gradients of any sizes"),
    },
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": (True, "orders work so that links are busy"),
        "xla_gpu_enable_highest_priority_async_stream": (True, "collectives are never behind"),
        "xla_gpu_enable_pipelined_all_reduce": (True, "of a loop's turn, during the next"),
    },
    # Processes on one machine share its cores: nothing is gained.
    "cpu": {},
}

# Beside the metrics, which are scalars: a batch's embeddings of speech and images.
EMBED_ROWS = ("rows/speech", "rows/image")


def batch_shapes(
    cfg, samples: int, cached: tuple[str, ...] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the fields that a step reads of a batch.

    Args:
      cfg: the whole config.
      samples: length bucket of the batch.
      cached: modalities whose features are stored.
    """
    b, size = cfg.data.batch_size, cfg.data.image_size
    frames, states = bucket_frames(cfg, samples), speech_states(cfg)
    width, image_width = cfg.model.speech.width, cfg.model.image.width
    fields = {}
    if "speech" not in cached:
        fields |= {"wave": ((b, samples), np.float32), "lengths": ((b,), np.int32)}
    elif states > 1:
        fields["speech_states"] = (b, states, frames, width), jnp.bfloat16
    else:
        fields["speech_tokens"] = (b, frames, width), jnp.bfloat16
    if "speech" in cached:
        fields["frames"] = (b,), np.int32
    if "image" in cached:
        fields["image_tokens"] = (b, image_tokens(cfg), image_width), jnp.bfloat16
        fields["image_pooled"] = (b, image_width), jnp.bfloat16
    else:
        fields["pixels"] = (b, size, size, 3), np.float32
    fields["image_ids"] = (b,), np.int32
    return {name: jax.ShapeDtypeStruct(*field) for name, field in fields.items()}


def bucket_length(batch) -> int:
    """Return the samples of a batch or, with stored speech, its frames: they identify a bucket."""
    if "wave" in batch:
        return batch["wave"].shape[1]
    return next(batch[x] for x in ("speech_states", "speech_tokens") if x in batch).shape[-2]


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    model,
    tx: optax.GradientTransformation,
    cfg,
    shards: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """Make one update.

    Args:
      state: the state before it; callers donate it.
      batch: the fields of `batch_shapes`.
      model: from `build_model`.
      tx: from `make_optimizer`.
      cfg: the whole config.
      shards: number of devices that the batch's rows are split over.

    Returns:
      The next state, and float32 scalars by name. `train/finite` is 1 if loss, gradient and update
      are finite, else 0, and then the caller must stop. With `data.groups` also the `EMBED_ROWS`,
      int8 [B, E], for the `Dealer`.
    """
    rng = jax.random.fold_in(jax.random.key(cfg.seed), state.step)
    trainable, frozen = split_tree(state.params, frozen_patterns(cfg))
    objective = Objective(model, cfg, shards)
    loss, aux, grads = loss_and_grads(objective, trainable, frozen, state, batch, rng)
    # Named as `pods.traffic` knows them.
    with jax.named_scope("optimizer"):
        updates, opt_state = tx.update(grads, state.opt_state, trainable)
        trainable = project_params(optax.apply_updates(trainable, updates))
        grad_norm, update_norm = optax.tree.norm(grads), optax.tree.norm(updates)
    params = merge_trees(trainable, frozen)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)
    metrics = {
        "loss": loss,
        **aux.metrics,
        "grad_norm": grad_norm,
        "temperature": params["temperature"],
        "learning_rate": make_schedule(cfg.optim, cfg.train.steps)(state.step),
        "finite": finite,
    }
    with jax.named_scope("teacher_update"):
        ema_params = update_ema(state.ema_params, params, cfg.loss.teacher.momentum)
    with jax.named_scope("queue"):
        queue = state.queue if aux.queue_rows is None else push(state.queue, aux.queue_rows)
    state = state.replace(
        step=state.step + 1,
        params=params,
        ema_params=ema_params,
        opt_state=opt_state,
        queue=queue,
    )
    out = {f"train/{name}": jnp.float32(value) for name, value in metrics.items()}
    if aux.embeds is not None:
        out |= zip(EMBED_ROWS, (pack_rows(embed, jnp) for embed in aux.embeds), strict=True)
    return state, out


def jit_train_step(
    cfg, mesh: Mesh, shardings: TrainState, fields: tuple[str, ...], model, tx
) -> Callable:
    """Return `train_step` under jit on a mesh, to be called or lowered with (state, batch).

    Args:
      cfg: the whole config.
      mesh: of devices, or of a topology that is only described.
      shardings: shardings of the state, which is donated.
      fields: names of the batch's arrays; each is sharded by rows.
      model: from `build_model`.
      tx: from `make_optimizer`.
    """
    step = functools.partial(train_step, model=model, tx=tx, cfg=cfg, shards=row_shards(mesh))
    rows = dict.fromkeys(fields, batch_sharding(mesh))
    flags = OVERLAP.get(mesh.devices.flat[0].platform, {}) if cfg.train.overlap else {}
    return jax.jit(
        step,
        in_shardings=(shardings, rows),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options={name: value for name, (value, _) in flags.items()},
    )
