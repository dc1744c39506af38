"""Pairs that are so alike that they may belong together, and so are no negatives."""

import jax
import jax.numpy as jnp

Array = jax.Array


def false_negatives(z: Array, keys: Array, past: Array, same: Array, share: Array) -> Array:
    """Tell which columns score above a share of the row's true pair, as NV-Retriever has it.

    A column j of another image is left out where cos(z_i, k_j) > share * cos(z_i, k_i), as far as
    the true pair's cosine is above 0 (arXiv 2407.15831). No gradient flows through this.

    Args:
      z: unit-norm embeddings of one modality, [B, E].
      keys: unit-norm embeddings of the other modality, [B, E]; row i belongs to row i of z.
      past: the queue's embeddings of the other modality, [Q, E]; Q may be 0. What an unfilled row
        holds makes no difference where unfilled rows are left out anyway.
      same: True for columns of the row's image, [B, B + Q].
      share: from 0 to 1; infinity leaves out nothing.

    Returns:
      bool [B, B + Q].

    Example:
      >>> z, keys = jnp.array([[1.0, 0.0]] * 2), jnp.array([[0.9, 0.4], [0.88, 0.5]])
      >>> print(false_negatives(z, keys, keys[:0], jnp.eye(2) > 0, 0.95))
      [[False  True]
       [ True False]]
    """
    z, keys, past = jax.lax.stop_gradient([x.astype(jnp.float32) for x in (z, keys, past)])
    true = (z * keys).sum(axis=-1, keepdims=True)
    scores = jnp.concatenate([z @ keys.T, z @ past.T], axis=-1)
    return ~same & (true > 0) & (scores > share * true)
