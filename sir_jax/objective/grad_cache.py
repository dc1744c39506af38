"""GradCache (arXiv 2101.06983): the gradient of a whole batch in the memory of a microbatch.

The method here covers tokens as well as embeddings:

1. Encode all microbatches without keeping activations.
2. Compute the objective of the whole batch, and its gradient with respect to those tokens and
   embeddings.
3. Encode each microbatch again, and backpropagate its part of that gradient into the parameters.

Unlike with `train.grad_accum`, every term sees the whole batch, and the gradient is exactly that of
the whole batch. Only the dropout masks differ: each microbatch draws its own.
"""

import jax
import jax.numpy as jnp

from sir_jax.objective.microbatches import join_rows, split_rows
from sir_jax.objective.total import Aux, Objective
from sir_jax.objective.views import Views
from sir_jax.runtime.trees import merge_trees

Array = jax.Array


def cached_loss_and_grads(
    objective: Objective, trainable, frozen, state, batch, rng
) -> tuple[Array, Aux, dict]:
    """Compute the loss and gradient of a batch in `train.grad_cache` microbatches.

    The fusion encoder runs in as many pieces. The price is one more forward pass of each encoder
    and of the fusion encoder.

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
    count = objective.cfg.train.grad_cache
    keys = jax.random.split(rng, 5)
    parts = jnp.arange(count), split_rows(batch, count)

    def encode_part(trainable, index, rows) -> Views:
        params = merge_trees(trainable, frozen)
        drawn = [jax.random.fold_in(key, index) for key in keys[:2]]
        return objective.encode(params, state.ema_params, rows, drawn)

    views = join_rows(jax.lax.map(lambda part: encode_part(trainable, *part), parts))

    def loss_of(trainable, student):
        params = merge_trees(trainable, frozen)
        return objective.loss_of_views(
            with_student_outputs(views, student),
            params,
            state.queue,
            batch["image_ids"],
            state.step,
            keys[2:],
            pieces=count,
        )

    (loss, aux), (grads, d_student) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(
        trainable, student_outputs(views)
    )

    def add_part(total, inputs):
        part, d_part = inputs
        _, pull_back = jax.vjp(lambda t: student_outputs(encode_part(t, *part)), trainable)
        return jax.tree.map(jnp.add, total, *pull_back(d_part)), None

    grads, _ = jax.lax.scan(add_part, grads, (parts, split_rows(d_student, count)))
    return loss, aux, grads


def student_outputs(views: Views) -> tuple:
    """Return the outputs through which the student gets a gradient, of speech and of images."""
    return tuple(
        (encoded.tokens, encoded.embed, encoded.frames) for encoded in (views.speech, views.image)
    )


def with_student_outputs(views: Views, student: tuple) -> Views:
    """Return views with the student's outputs replaced; the inverse of `student_outputs`."""
    names = "tokens", "embed", "frames"
    speech, image = (dict(zip(names, outputs, strict=True)) for outputs in student)
    return views._replace(
        speech=views.speech._replace(**speech), image=views.image._replace(**image)
    )
