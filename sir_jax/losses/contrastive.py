"""Contrastive losses between speech and image embeddings, over a batch and over a queue."""

import jax
import jax.numpy as jnp

Array = jax.Array

# The logit of a column that holds nothing. Finite: -inf times a target of zero is NaN.
_ABSENT = -1e30


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """Return -sum_j targets_ij log softmax(logits_i)_j for logits and targets [B, C]: [B]."""
    return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


def id_targets(ids: Array, past_ids: Array, filled: Array) -> Array:
    """Spread each row's target evenly over the columns that have the row's image id.

    Args:
      ids: image ids of the batch, which are rows and first columns, [B].
      past_ids: image ids of the queue, the other columns, [Q].
      filled: False for the queue's rows that hold nothing, [Q].

    Returns:
      float32 [B, B + Q], each row summing to 1, as ALBEF's retrieval loss has it (arXiv
      2107.07651).
    """
    now = ids[:, None] == ids[None, :]
    past = (ids[:, None] == past_ids[None, :]) & filled[None, :]
    positive = jnp.concatenate([now, past], axis=-1).astype(jnp.float32)
    return positive / positive.sum(axis=-1, keepdims=True)


def _similarities(z: Array, keys: Array, past: Array, filled: Array, temperature: Array) -> Array:
    """Return z . keys and z . past over the temperature, [B, B + Q].

    Two products joined by columns, not one with joined keys: under a sharded batch the batch's
    keys are gathered, while a replicated queue stays where it is.
    """
    z, keys, past = (x.astype(jnp.float32) for x in (z, keys, past))
    old = jnp.where(filled, z @ past.T / temperature, _ABSENT)
    return jnp.concatenate([z @ keys.T / temperature, old], axis=-1)


def contrastive(
    z: Array,
    keys: Array,
    past: Array,
    filled: Array,
    hard: Array,
    temperature: Array,
    teacher: Array | None = None,
    alpha: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Compute one direction of SIC: InfoNCE against the batch's keys followed by the queue.

    l_i = -sum_j t_ij log softmax_j(z_i . k_j / temperature), where t = (1 - alpha) hard +
    alpha softmax(teacher . k / temperature): ALBEF's momentum distillation (arXiv 2107.07651,
    equation 6) up to the teacher's entropy, which has no gradient. Under a sharded batch the
    negatives are global.

    Args:
      z: unit-norm embeddings of one modality, [B, E].
      keys: unit-norm embeddings of the other one, [B, E]: the momentum teacher's, with their
        gradient stopped by the caller, or the online ones where there is none.
      past: the queue's rows of the other modality, [Q, E], Q from 0 up; has no gradient.
      filled: False for the queue's rows that hold nothing, [Q]: they are in no denominator.
      hard: targets by image id, [B, B + Q]; see `id_targets`.
      temperature: positive scalar; the targets have no gradient by it.
      teacher: the momentum teacher's embeddings of z's modality, [B, E]; None for `hard` alone.
      alpha: weight of the teacher's targets, from 0 to 1.

    Returns:
      The loss of each row, [B], and the share of rows whose most similar column is a positive.
    """
    # Zeroed before the product: a NaN selected away behind it would come back by the gradient.
    past = jnp.where(filled[:, None], jax.lax.stop_gradient(past), 0.0)
    logits = _similarities(z, keys, past, filled, temperature)
    targets = hard
    if teacher is not None:
        soft = jax.nn.softmax(_similarities(teacher, keys, past, filled, temperature), axis=-1)
        targets = jax.lax.stop_gradient((1.0 - alpha) * hard + alpha * soft)
    found = jnp.take_along_axis(hard, logits.argmax(axis=-1)[:, None], axis=-1) > 0
    return soft_cross_entropy(logits, targets), found.mean()
