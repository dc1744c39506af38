"""One update: loss, gradient of the trainable leaves, optimiser, projection. All pure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sir_jax.losses.contrastive import in_batch_contrastive
from sir_jax.training.optimizer import make_schedule
from sir_jax.training.state import TrainState
from sir_jax.training.trees import merge_trees, split_tree

Array = jax.Array

# ALBEF's clamp (arXiv 2107.07651, public code), after the update.
TEMPERATURE_RANGE = (0.001, 0.5)

# What the step needs of a batch; `caption_ids` stay on the host, for error messages.
STEP_FIELDS = ("wave", "lengths", "pixels", "image_ids")


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    metrics: dict[str, Array]  # scalars, float32
    queue_rows: Any = None  # rows to put into the queue; None without a queue


def loss_fn(params, ema_params, queue, batch, rng, *, model, cfg) -> tuple[Array, Aux]:
    """Compute the objective of one batch: the in-batch contrastive loss.

    Args:
      params: the whole parameter tree.
      ema_params: the momentum teacher's sub-trees; None, as no term has a teacher yet.
      queue: past momentum embeddings; None likewise.
      batch: wave [B, N], lengths [B], pixels [B, h, w, 3], image_ids [B].
      rng: key of this batch's dropout.
      model: from `build_model`.
      cfg: the whole config.

    Returns:
      The mean loss over the batch, and `Aux`.
    """
    del ema_params, queue, cfg
    key_s, key_i = jax.random.split(rng)
    variables = {"params": params}
    speech = model.apply(
        variables, batch["wave"], batch["lengths"], deterministic=False,
        method="encode_speech", rngs={"dropout": key_s},
    )  # fmt: skip
    image = model.apply(
        variables, batch["pixels"], deterministic=False,
        method="encode_image", rngs={"dropout": key_i},
    )  # fmt: skip
    losses, accuracies = in_batch_contrastive(
        speech.embed, image.embed, batch["image_ids"], params["temperature"]
    )
    return losses.mean(), Aux(metrics=accuracies)


def microbatches(batch: dict[str, Array], count: int) -> dict[str, Array]:
    """Cut a batch [B, ...] into [count, B / count, ...]: row r goes to microbatch r % count.

    Strided, so that a batch sharded by rows splits where it lies, without communication.
    """
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch
    )


def loss_and_grads(trainable, frozen, state: TrainState, batch, rng, *, model, cfg):
    """Compute the loss and its gradient with respect to the trainable leaves alone.

    With `train.grad_accum` > 1 both are means over microbatches, run one after the other; a
    contrastive loss then sees the negatives of a microbatch only.

    Returns:
      (loss, `Aux`, gradient with the structure of `trainable`).
    """

    def loss_of(trainable, batch, rng):
        params = merge_trees(trainable, frozen)
        return loss_fn(params, state.ema_params, state.queue, batch, rng, model=model, cfg=cfg)

    grad_of = jax.value_and_grad(loss_of, has_aux=True)
    count = cfg.train.grad_accum
    if count == 1:
        (loss, aux), grads = grad_of(trainable, batch, rng)
        return loss, aux, grads

    def body(total, inputs):
        index, rows = inputs
        (loss, aux), grads = grad_of(trainable, rows, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, total, grads), (loss, aux)

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    total, (losses, auxes) = jax.lax.scan(
        body, zeros, (jnp.arange(count), microbatches(batch, count))
    )
    metrics = jax.tree.map(lambda x: x.mean(axis=0), auxes.metrics)
    grads = jax.tree.map(lambda x: x / count, total)
    return losses.mean(), Aux(metrics=metrics, queue_rows=auxes.queue_rows), grads


def project_params(params: dict) -> dict:
    """Bring parameters back into their range: the temperature, where it is trained."""
    if "temperature" not in params:
        return params
    return {**params, "temperature": jnp.clip(params["temperature"], *TEMPERATURE_RANGE)}


def train_step(
    state: TrainState, batch: dict[str, Array], *, model, tx: optax.GradientTransformation, cfg
) -> tuple[TrainState, dict[str, Array]]:
    """Make one update.

    Args:
      state: donated by the caller.
      batch: the fields `STEP_FIELDS`.
      model: from `build_model`.
      tx: from `make_optimizer`.
      cfg: the whole config.

    Returns:
      The next state, and float32 scalars by name. `train/finite` is 1 where loss, gradient and
      update all are finite; the caller must stop where it is 0.
    """
    rng = jax.random.fold_in(jax.random.key(cfg.seed), state.step)
    trainable, frozen = split_tree(state.params, cfg.optim.freeze)
    loss, aux, grads = loss_and_grads(trainable, frozen, state, batch, rng, model=model, cfg=cfg)
    updates, opt_state = tx.update(grads, state.opt_state, trainable)
    trainable = project_params(optax.apply_updates(trainable, updates))
    params = merge_trees(trainable, frozen)
    grad_norm, update_norm = optax.tree.norm(grads), optax.tree.norm(updates)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)
    metrics = {
        "loss": loss,
        **aux.metrics,
        "grad_norm": grad_norm,
        "temperature": params["temperature"],
        "learning_rate": make_schedule(cfg.optim, cfg.train.steps)(state.step),
        "finite": finite,
    }
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, {f"train/{name}": jnp.float32(value) for name, value in metrics.items()}
