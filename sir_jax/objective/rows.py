"""Rows of a batch, in groups: cut, joined and gathered, for every leaf of a tree."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def grouped(tree: Any, groups: int) -> Any:
    """Split leaves [B, ...] into [groups, B / groups, ...]: contiguous rows, as shards are."""
    return jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), tree)


def flat(tree: Any) -> Any:
    """Join leaves [groups, B / groups, ...] into [B, ...]; the inverse of `grouped`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


@jax.vmap
def take(tree: Any, rows: Array) -> Any:
    """Take rows [groups, n, ..] of leaves [groups, B / groups, ...], each within its own group."""
    return jax.tree.map(lambda x: take_rows(x, rows) if x.dtype != bool else x[rows], tree)


@jax.custom_vjp
def take_rows(x: Array, rows: Array) -> Array:
    """Take rows [n, ..] of x [B, ...], with a gradient that needs one reduce-scatter on shards.

    The gradient is a product with a one-hot matrix. Autodiff would write it as a scatter-add, for
    which XLA gathers the updates of all devices and then sums all devices' results: three times the
    traffic. On CPU a scatter-add is slow, too.
    """
    return x[rows]


def _take_rows_fwd(x, rows):
    return x[rows], (rows, jnp.zeros((x.shape[0], 0)))


def _take_rows_bwd(residuals, d_out):
    rows, like = residuals
    taken = (rows.reshape(-1, 1) == jnp.arange(like.shape[0])).astype(d_out.dtype)
    d_x = jnp.einsum(
        "rb,rd->bd", taken, d_out.reshape(rows.size, -1), preferred_element_type=jnp.float32
    )
    return d_x.astype(d_out.dtype).reshape(-1, *d_out.shape[rows.ndim :]), None


take_rows.defvjp(_take_rows_fwd, _take_rows_bwd)


def repeated(tree: Any, count: int) -> Any:
    """Repeat each row of leaves [groups, B / groups, ...]: [groups, B / groups, count, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x[:, :, None], count, axis=2), tree)


def interleaved(*trees: Any) -> Any:
    """Join trees of leaves [groups, B / groups, n_t, ...] into [B sum_t n_t, ...], row by row."""
    joined = jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), *trees)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), joined)
