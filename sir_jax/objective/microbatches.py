"""Splitting a batch into microbatches that run one after the other.

Row r goes to microbatch r % count. With this stride a batch that is sharded by rows is split on
each device alone, without communication.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def split_rows(tree: Any, count: int) -> Any:
    """Split leaves [B, ...] into [count, B / count, ...].

    Example:
      >>> print(split_rows(jnp.arange(6), 2))
      [[0 2 4]
       [1 3 5]]
    """
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), tree
    )


def join_rows(tree: Any) -> Any:
    """Join leaves [count, B / count, ...] into [B, ...]; the inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def map_rows(fn: Callable, key: Array | None, count: int, *trees: Any) -> Any:
    """Apply a function that treats rows independently to one part of the rows at a time.

    The backward pass recomputes the activations of each part, so memory is that of one part.

    Args:
      fn: maps (key, *trees of rows) to a tree of rows.
      key: random key, from which each part gets its own; with None, `fn` gets None.
      count: number of parts; with 1, `fn` is called directly and keeps its activations.
      *trees: leaves [B, ...].

    Returns:
      The tree that `fn` returns, with the rows of all parts.
    """
    if count == 1:
        return fn(key, *trees)

    @jax.checkpoint
    def body(index, rows):
        return fn(None if key is None else jax.random.fold_in(key, index), *rows)

    parts = jnp.arange(count), split_rows(trees, count)
    return join_rows(jax.lax.map(lambda part: body(*part), parts))
