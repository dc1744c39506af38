"""Contrastive losses between speech and image embeddings."""

import jax
import jax.numpy as jnp

Array = jax.Array


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """Return -sum_j targets_ij log softmax(logits_i)_j for logits and targets [B, C]: [B]."""
    return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


def in_batch_contrastive(
    z_s: Array, z_i: Array, ids: Array, temperature: Array
) -> tuple[Array, dict[str, Array]]:
    """Compute the symmetric InfoNCE of a batch with all captions of an image as positives.

    The target of a row is uniform over the columns whose image id equals the row's, as ALBEF's
    retrieval loss has it (arXiv 2107.07651). Under a sharded batch the negatives are global.

    Args:
      z_s: unit-norm speech embeddings, [B, E].
      z_i: unit-norm image embeddings, [B, E].
      ids: image ids, [B]; equal ids are positives of one another.
      temperature: positive scalar.

    Returns:
      The mean of the two directions for each row, [B], and each direction's accuracy: the share
      of rows whose most similar column has the row's image id.
    """
    z_s, z_i = z_s.astype(jnp.float32), z_i.astype(jnp.float32)
    logits = jnp.einsum("se,ie->si", z_s, z_i) / temperature
    positive = ids[:, None] == ids[None, :]
    targets = positive / positive.sum(axis=-1, keepdims=True)
    loss = 0.5 * (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets))

    def accuracy(scores):
        return (ids[scores.argmax(axis=-1)] == ids).mean()

    return loss, {"s2i_accuracy": accuracy(logits), "i2s_accuracy": accuracy(logits.T)}
