"""Contrastive losses between speech and image embeddings, over a batch and over a queue."""

import jax
import jax.numpy as jnp

Array = jax.Array

# The logit of an unfilled row of the queue, and of what is barred. Finite, because -inf times a
# target of 0 is NaN.
_UNFILLED_LOGIT = -1e30


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """Return each row's cross-entropy with soft targets, -sum_j t_ij log softmax(logits_i)_j.

    Args:
      logits: [B, C].
      targets: weights of the columns, [B, C].

    Returns:
      [B].

    Example:
      >>> loss = soft_cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.5, 0.5]]))
      >>> print(f"{loss[0]:.3f}")
      0.693
    """
    return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


def id_targets(ids: Array, past_ids: Array, filled: Array) -> Array:
    """Spread each row's target evenly over the columns with the row's image id.

    ALBEF's retrieval loss uses the same targets (arXiv 2107.07651).

    Args:
      ids: image ids of the batch, [B]: the rows, and the first B columns.
      past_ids: image ids of the queue, [Q]: the last Q columns.
      filled: False for rows of the queue that are not filled yet, [Q].

    Returns:
      float32 [B, B + Q]; each row sums to 1.

    Example:
      >>> print(id_targets(jnp.array([7, 8]), jnp.array([7, 7]), jnp.array([True, False])))
      [[0.5 0.  0.5 0. ]
       [0.  1.  0.  0. ]]
    """
    now = ids[:, None] == ids[None, :]
    past = (ids[:, None] == past_ids[None, :]) & filled[None, :]
    positive = jnp.concatenate([now, past], axis=-1).astype(jnp.float32)
    return positive / positive.sum(axis=-1, keepdims=True)


def _similarities(
    z: Array, keys: Array, past: Array, filled: Array, temperature: Array, barred: Array | None
) -> Array:
    """Return the logits of z [B, E] with keys [B, E] and past [Q, E], [B, B + Q].

    Two products, not one with concatenated keys: a sharded batch must gather its keys, but a
    replicated queue needs no communication.
    """
    z, keys, past = (x.astype(jnp.float32) for x in (z, keys, past))
    old = jnp.where(filled, z @ past.T / temperature, _UNFILLED_LOGIT)
    logits = jnp.concatenate([z @ keys.T / temperature, old], axis=-1)
    return logits if barred is None else jnp.where(barred, _UNFILLED_LOGIT, logits)


def soft_negative(
    z: Array, negative: Array, exists: Array, weight: float, temperature: Array
) -> Array:
    """Return the logit of one negative that each row has for itself.

    It is z_i . n_i / temperature + log(weight): in the softmax it counts `weight` times.

    Args:
      z: unit-norm embeddings, [B, E].
      negative: the unit-norm embedding of each row's negative, [B, E].
      exists: whether the row has it, bool [B]; without it the logit takes no part in a softmax.
      weight: positive.
      temperature: positive scalar.

    Returns:
      float32 [B, 1], the `own` of `contrastive`.

    Example:
      >>> z = jnp.eye(2)
      >>> print(soft_negative(z[:1], z[:1], jnp.array([True]), 1.0, 0.5))
      [[2.]]
    """
    cosine = (z.astype(jnp.float32) * negative.astype(jnp.float32)).sum(axis=-1)
    logit = cosine / temperature + jnp.log(weight)
    return jnp.where(exists, logit, _UNFILLED_LOGIT)[:, None]


def contrastive(
    z: Array,
    keys: Array,
    past: Array,
    filled: Array,
    hard: Array,
    temperature: Array,
    teacher: Array | None = None,
    alpha: Array | float = 0.0,
    barred: Array | None = None,
    own: Array | None = None,
) -> tuple[Array, Array]:
    """Compute one direction of SIC: InfoNCE over the keys of the batch and of the queue.

    l_i = -sum_j t_ij log softmax_j(z_i . k_j / temperature), where the keys k are those of the
    batch followed by those of the queue, and

    t = (1 - alpha) hard + alpha softmax(teacher . k / temperature).

    This is ALBEF's momentum distillation (arXiv 2107.07651, equation 6) without the teacher's
    entropy, which has no gradient. Under a sharded batch the negatives are global.

    Args:
      z: unit-norm embeddings of one modality, [B, E].
      keys: unit-norm embeddings of the other modality, [B, E]. With a momentum teacher they are
        the teacher's, and the caller stops their gradient; without one they are the student's.
      past: the queue's embeddings of the other modality, [Q, E]; Q may be 0. No gradient flows
        to them.
      filled: False for rows of the queue that are not filled yet, [Q]; they are no negatives.
      hard: targets by image id from `id_targets`, [B, B + Q].
      temperature: positive scalar. Its gradient goes through the logits, not the targets.
      teacher: the momentum teacher's embeddings of z's modality, [B, E]; None to use `hard` alone.
      alpha: weight of the teacher's targets, from 0 to 1.
      barred: True for columns that are left out of the row's softmax, the teacher's as well, bool
        [B, B + Q]; never for a positive. None for none.
      own: logits of further columns of the softmax, negatives that each row has for itself, [B, M];
        the teacher's has none of them. None for none.

    Returns:
      The loss of each row, [B], and the share of rows whose most similar key is a positive.

    Example:
      >>> z, no_queue, unfilled = jnp.eye(2), jnp.zeros((0, 2)), jnp.zeros(0, bool)
      >>> loss, accuracy = contrastive(z, z, no_queue, unfilled, jnp.eye(2), temperature=1.0)
      >>> print(f"{loss.mean():.3f}", accuracy)
      0.313 1.0
    """
    # Zeroed before the product: a NaN that is masked only after it would still reach the gradient.
    past = jnp.where(filled[:, None], jax.lax.stop_gradient(past), 0.0)
    logits = _similarities(z, keys, past, filled, temperature, barred)
    targets = hard
    if teacher is not None:
        soft = _similarities(teacher, keys, past, filled, temperature, barred)
        soft = jax.nn.softmax(soft, axis=-1)
        targets = jax.lax.stop_gradient((1.0 - alpha) * hard + alpha * soft)
    correct = jnp.take_along_axis(hard, logits.argmax(axis=-1)[:, None], axis=-1) > 0
    if own is not None:
        logits = jnp.concatenate([logits, own], axis=-1)
        targets = jnp.pad(targets, ((0, 0), (0, own.shape[1])))
    return soft_cross_entropy(logits, targets), correct.mean()


def accuracy_in_batch(z: Array, keys: Array, hard: Array) -> Array:
    """Return the share of rows whose most similar key of the same batch is a positive.

    Args:
      z: unit-norm embeddings of one modality, [B, E].
      keys: unit-norm embeddings of the other modality, [B, E].
      hard: targets by image id from `id_targets`, [B, B + Q].

    Example:
      >>> print(accuracy_in_batch(jnp.eye(2), jnp.eye(2), jnp.eye(2)))
      1.0
    """
    best = (z.astype(jnp.float32) @ keys.astype(jnp.float32).T).argmax(axis=-1)
    return (jnp.take_along_axis(hard, best[:, None], axis=-1) > 0).mean()


def spread(z: Array) -> Array:
    """Return 1 less the mean cosine of two different rows: 0 where all embeddings are equal.

    Args:
      z: unit-norm embeddings, [B, E].

    Example:
      >>> print(spread(jnp.eye(3)), spread(jnp.ones((3, 1))))
      1.0 0.0
    """
    rows = z.shape[0]
    total = jnp.square(z.astype(jnp.float32).sum(axis=0)).sum()
    return 1.0 - (total - rows) / max(rows * (rows - 1), 1)
