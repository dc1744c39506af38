"""A batch's rows in several parts, one after the other.

Row r goes to part r % count: strided, so that a batch sharded by rows splits where it lies, without
communication.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def split_rows(tree: Any, count: int) -> Any:
    """Cut leaves [B, ...] into [count, B / count, ...]."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), tree
    )


def join_rows(tree: Any) -> Any:
    """Undo `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def map_rows(fn: Callable, key: Array | None, count: int, *trees: Any) -> Any:
    """Apply a function of rows to `count` parts of them, whose activations are made again when the
    gradient wants them: memory is that of one part.

    Args:
      fn: (key, *trees of rows) -> tree of rows.
      key: of its random draws, another one for each part; None is handed on.
      count: of parts; 1 calls `fn` as it is.
      *trees: leaves [B, ...].

    Returns:
      What `fn` returns for all rows.
    """
    if count == 1:
        return fn(key, *trees)

    @jax.checkpoint
    def body(index, rows):
        return fn(None if key is None else jax.random.fold_in(key, index), *rows)

    parts = jnp.arange(count), split_rows(trees, count)
    return join_rows(jax.lax.map(lambda part: body(*part), parts))
