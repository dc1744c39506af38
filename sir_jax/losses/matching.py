"""Speech-image matching (SIM): hard negatives by similarity, and the loss over pairs."""

import jax
import jax.numpy as jnp

Array = jax.Array


def hard_negatives(key: Array, scores: Array, ids: Array) -> tuple[Array, Array]:
    """Draw for each row one column of another image, the likelier the more similar.

    P(j | i) is proportional to exp(scores_ij) over the columns whose id is not the row's, as ALBEF
    has it (arXiv 2107.07651).

    Args:
      key: of the draw.
      scores: similarities over the temperature, [B, B]; no gradient flows to them.
      ids: image ids of rows and columns alike, [B].

    Returns:
      int32 [B], the column drawn; and bool [B], False for a row whose id is everybody's, whose
      draw means nothing and must count nothing.
    """
    other = ids[:, None] != ids[None, :]
    valid = other.any(axis=-1)
    # A categorical over nothing but -inf would be a draw without a sign that anything is wrong.
    logits = jnp.where(other | ~valid[:, None], jax.lax.stop_gradient(scores), -jnp.inf)
    drawn = jax.random.categorical(key, logits.astype(jnp.float32), axis=-1)
    return drawn.astype(jnp.int32), valid


def matching(logits: Array, valid: Array) -> tuple[Array, Array, Array]:
    """Compute the two-class cross-entropy of a pair that belongs together and two that do not.

    Args:
      logits: [B, 3, 2]: of each row's true pair, of its speech with a hard image, and of a hard
        speech with its image; class 1 is 'they match'.
      valid: bool [B, 2]: which of the two negatives exist; an absent one is ignored.

    Returns:
      The loss of each pair, [B, 3]; which pairs count, bool [B, 3]; which are told rightly,
      bool [B, 3].
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    labels = jnp.array([1, 0, 0])
    loss = -jnp.take_along_axis(log_p, labels[None, :, None], axis=-1)[..., 0]
    counted = jnp.concatenate([jnp.ones_like(valid[:, :1]), valid], axis=1)
    right = logits.argmax(axis=-1) == labels[None, :]
    return jnp.where(counted, loss, 0.0), counted, right


def match_score(logits: Array) -> Array:
    """Return the log-odds that a pair matches, float32 [...], of logits [..., 2]."""
    logits = logits.astype(jnp.float32)
    return logits[..., 1] - logits[..., 0]


def masked_mean(values: Array, counted: Array) -> Array:
    """Return the mean of the values that count; 0 where none does."""
    return jnp.where(counted, values, 0.0).sum() / jnp.maximum(counted.sum(), 1)
