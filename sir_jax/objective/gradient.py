"""The loss of a batch and its gradient: in one pass, accumulated, or by GradCache."""

import jax
import jax.numpy as jnp

from sir_jax.objective.grad_cache import cached_loss_and_grads
from sir_jax.objective.microbatches import join_rows, split_rows
from sir_jax.objective.total import Aux, Objective
from sir_jax.runtime.trees import merge_trees

Array = jax.Array


def loss_and_grads(
    objective: Objective, trainable, frozen, state, batch, rng
) -> tuple[Array, Aux, dict]:
    """Compute the loss and its gradient with respect to the trainable parameters.

    With `train.grad_accum` > 1 both are means over microbatches that run one after the other. The
    negatives of a caption then come from its own microbatch and from the queue as it was before the
    step. With `train.grad_cache` > 1 both are those of the whole batch; see `grad_cache`.

    Args:
      objective: the objective to differentiate.
      trainable: parameters that get a gradient.
      frozen: all other parameters.
      state: a `TrainState`, of which `ema_params`, `queue` and `step` are read.
      batch: fields of `Objective.loss`.
      rng: random key of dropout, negatives and noise.

    Returns:
      (loss, `Aux`, gradient with the structure of `trainable`).
    """
    if objective.cfg.train.grad_cache > 1:
        return cached_loss_and_grads(objective, trainable, frozen, state, batch, rng)

    def loss_of(trainable, batch, rng):
        params = merge_trees(trainable, frozen)
        return objective.loss(params, state.ema_params, state.queue, batch, state.step, rng)

    grad_of = jax.value_and_grad(loss_of, has_aux=True)
    count = objective.cfg.train.grad_accum
    if count == 1:
        (loss, aux), grads = grad_of(trainable, batch, rng)
        return loss, aux, grads

    def body(total, inputs):
        index, rows = inputs
        (loss, aux), grads = grad_of(trainable, rows, jax.random.fold_in(rng, index))
        return jax.tree.map(jnp.add, total, grads), (loss, aux)

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    total, (losses, auxes) = jax.lax.scan(
        body, zeros, (jnp.arange(count), split_rows(batch, count))
    )
    metrics = jax.tree.map(lambda x: x.mean(axis=0), auxes.metrics)
    grads = jax.tree.map(lambda x: x / count, total)
    aux = Aux(metrics, join_rows(auxes.queue_rows), join_rows(auxes.embeds))
    return losses.mean(), aux, grads
