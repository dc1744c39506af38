"""Speech-image matching (SIM): the draw of hard negatives, and the loss over pairs."""

import jax
import jax.numpy as jnp

Array = jax.Array


def hard_negatives(
    key: Array, scores: Array, ids: Array, barred: Array | None = None
) -> tuple[Array, Array]:
    """Draw one hard negative for each row: a column of another image, similar ones more often.

    P(j | i) is proportional to exp(scores_ij) over the columns j whose image id differs from that
    of row i, as in ALBEF (arXiv 2107.07651).

    Args:
      key: random key.
      scores: similarities divided by the temperature, [B, B]; no gradient flows to them.
      ids: image ids of the rows, which are also those of the columns, [B].
      barred: True for columns that are not drawn either, bool [B, B]; None for none.

    Returns:
      The drawn column, int32 [B]; and whether the row has one that may be drawn, bool [B].
      Without one the drawn column is meaningless, and the caller must leave it out.

    Example:
      >>> print(*hard_negatives(jax.random.key(0), jnp.zeros((2, 2)), jnp.array([3, 4])))
      [1 0] [ True  True]
    """
    other = ids[:, None] != ids[None, :]
    if barred is not None:
        other &= ~barred
    valid = other.any(axis=-1)
    # A row without a negative draws from all columns: over -inf alone the draw would be silent
    # garbage.
    logits = jnp.where(other | ~valid[:, None], jax.lax.stop_gradient(scores), -jnp.inf)
    drawn = jax.random.categorical(key, logits.astype(jnp.float32), axis=-1)
    return drawn.astype(jnp.int32), valid


def matching(logits: Array, valid: Array) -> tuple[Array, Array, Array]:
    """Compute the binary cross-entropy of each row's true pair and its two hard negatives.

    Args:
      logits: [B, 3, 2]. Axis 1: the true pair; the row's speech with a hard image; a hard speech
        with the row's image. Axis 2: class 1 is 'they match'.
      valid: which of the two negatives exist, bool [B, 2].

    Returns:
      Three arrays [B, 3]: the loss of each pair, 0 where a negative does not exist; whether the
      pair exists; and whether it is classified correctly.

    Example:
      >>> loss, counted, correct = matching(jnp.zeros((1, 3, 2)), jnp.array([[True, False]]))
      >>> print(f"{loss.sum():.3f}", counted, correct)
      1.386 [[ True  True False]] [[False  True  True]]
    """
    counted = jnp.concatenate([jnp.ones_like(valid[:, :1]), valid], axis=1)
    # Zeroed before the softmax: a NaN that is masked only after it would still reach the gradient.
    present = jnp.where(counted[..., None], logits.astype(jnp.float32), 0.0)
    log_p = jax.nn.log_softmax(present, axis=-1)
    labels = jnp.array([1, 0, 0])
    loss = -jnp.take_along_axis(log_p, labels[None, :, None], axis=-1)[..., 0]
    correct = logits.argmax(axis=-1) == labels[None, :]
    return jnp.where(counted, loss, 0.0), counted, correct


def match_score(logits: Array) -> Array:
    """Return the log-odds that a pair matches, float32 [...], from logits [..., 2].

    Example:
      >>> print(match_score(jnp.array([0.5, 2.0])))
      1.5
    """
    logits = logits.astype(jnp.float32)
    return logits[..., 1] - logits[..., 0]


def pooled_log_odds(cosine: Array, scale: Array, bias: Array) -> Array:
    """Return the log-odds that pairs match, float32, from the cosines of their pooled vectors.

    Args:
      cosine: any shape.
      scale: logarithm of the number that multiplies a cosine; the parameter `pooled_scale`.
      bias: the parameter `pooled_bias`. It orders nothing.

    Example:
      >>> print(pooled_log_odds(jnp.array([0.5, -0.5]), jnp.log(4.0), jnp.array(-1.0)))
      [ 1. -3.]
    """
    return jnp.exp(scale) * cosine.astype(jnp.float32) + bias


def logits_of_odds(log_odds: Array) -> Array:
    """Return logits [..., 2] whose `match_score` is the given log-odds [...].

    Example:
      >>> print(match_score(logits_of_odds(jnp.array(1.5))))
      1.5
    """
    return jnp.stack([jnp.zeros_like(log_odds), log_odds], axis=-1)


def masked_mean(values: Array, counted: Array) -> Array:
    """Return the mean of `values` where `counted` is True; 0 where it is True nowhere.

    Example:
      >>> print(masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
      2.0
    """
    return jnp.where(counted, values, 0.0).sum() / jnp.maximum(counted.sum(), 1)
