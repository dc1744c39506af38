"""The gradient of a whole batch, its encoders' activations kept for one microbatch at a time.

GradCache (arXiv 2101.06983), for tokens as well as embeddings: encode all microbatches without a
gradient; differentiate the objective of the whole batch by the tokens and embeddings; encode each
microbatch again and carry that gradient on into the parameters. Every term sees all of the batch,
unlike under `train.grad_accum`, and the result is the big batch's gradient, for each of them. Only
dropout is drawn anew for every microbatch: in distribution the same, number for number another.
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
    """Compute what `gradient.loss_and_grads` does, in `train.grad_cache` microbatches.

    The fusion encoder goes over the pairs in as many pieces. Costs one more pass of each encoder,
    and of the fusion encoder's forward.

    Args:
      objective: what is computed.
      trainable: the leaves that get a gradient.
      frozen: the other ones.
      state: its `ema_params`, `queue` and `step` are read.
      batch: see `Objective.loss`.
      rng: likewise.

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
            with_student(views, student),
            params,
            state.queue,
            batch["image_ids"],
            state.step,
            keys[2:],
            pieces=count,
        )

    (loss, aux), (grads, d_student) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(
        trainable, student_of(views)
    )

    def carry_on(total, inputs):
        part, d_part = inputs
        _, pull_back = jax.vjp(lambda t: student_of(encode_part(t, *part)), trainable)
        return jax.tree.map(jnp.add, total, *pull_back(d_part)), None

    grads, _ = jax.lax.scan(carry_on, grads, (parts, split_rows(d_student, count)))
    return loss, aux, grads


def student_of(views: Views) -> tuple:
    """Return what the student's gradient goes through: tokens and embeddings."""
    return tuple((encoded.tokens, encoded.embed) for encoded in (views.speech, views.image))


def with_student(views: Views, student: tuple) -> Views:
    """Put tokens and embeddings back in place; see `student_of`."""
    (speech, z_s), (image, z_i) = student
    return views._replace(
        speech=views.speech._replace(tokens=speech, embed=z_s),
        image=views.image._replace(tokens=image, embed=z_i),
    )
