"""Attention for TPUs in one kernel, whose logits never leave the chip's vector memory.

After FlashAttention (arXiv 2205.14135). JAX's own Pallas kernel
(`jax.experimental.pallas.ops.tpu.flash_attention`) is made for long streams: it wants [B, H, T, K],
whose K of 64 fills half of a lane register and has to be laid out first, and for the gradient it
writes each query's largest logit and sum 128 times: at 750 frames, 16 heads and 16 clips 98 MB
each, as much as queries, keys, values and output together. Here

- arrays stay [B, T, H * K], as the projections make them; a block holds whole heads;
- all keys of a row are in a block, so that a softmax needs no second look, and the backward pass
  computes it again from queries and keys: nothing but these and the values is kept;
- padding is a bias of the keys, as in `attention.attend`, and lengths need no rounding up: a block
  that reaches over the end of the queries is cut by the kernel.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array


def forward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    *,
    width: int,
    block: tuple[int, int],
    interpret: bool,
) -> Array:
    """Attend, on one device.

    Args:
      q: queries, [B, T, H * K], not scaled.
      k: keys, [B, S, H * K].
      v: values, [B, S, H * K].
      bias: float32 that is added to the logits of each key, [B, 1, S]; None for none.
      width: K.
      block: from `attention.flash_block`.
      interpret: run on CPU.

    Returns:
      [B, T, H * K] in the dtype of `v`.
    """
    (b, t, d), s = q.shape, k.shape[1]
    (rows, together), heads = block, d // width
    of_queries, of_keys, of_bias = _specs(rows, s, together * width)
    arrays, specs = [q, k, v], [of_queries, of_keys, of_keys]
    if bias is not None:
        arrays, specs = [*arrays, bias], [*specs, of_bias]
    return pl.pallas_call(
        functools.partial(_forward_kernel, heads=together, masked=bias is not None),
        out_shape=jax.ShapeDtypeStruct((b, t, d), v.dtype),
        grid=(b, heads // together, pl.cdiv(t, rows)),
        in_specs=specs,
        out_specs=of_queries,
        compiler_params=_parameters(),
        cost_estimate=_cost(arrays, [q], 2, s),
        interpret=interpret,
    )(*arrays)


def backward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    d_out: Array,
    *,
    width: int,
    block: tuple[int, int],
    interpret: bool,
) -> tuple[Array, Array, Array]:
    """Return the gradients for q, k and v of `forward`, of `d_out` [B, T, H * K]."""
    (b, t, d), s = q.shape, k.shape[1]
    (rows, together), heads = block, d // width
    lanes = together * width
    of_queries, of_keys, of_bias = _specs(rows, s, lanes)
    arrays, specs = [q, k, v, d_out], [of_queries, of_keys, of_keys, of_queries]
    if bias is not None:
        arrays, specs = [*arrays, bias], [*specs, of_bias]
    kernel = functools.partial(
        _backward_kernel, heads=together, masked=bias is not None, left=t if t % rows else 0
    )
    return pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        grid=(b, heads // together, pl.cdiv(t, rows)),
        in_specs=specs,
        out_specs=[of_queries, of_keys, of_keys],
        scratch_shapes=[pltpu.VMEM((s, lanes), jnp.float32)] * 2,
        compiler_params=_parameters(),
        cost_estimate=_cost(arrays, [q, k, v], 5, s),
        interpret=interpret,
    )(*arrays)


def _specs(rows: int, s: int, lanes: int) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
    """Return the blocks of queries, of keys and of a bias; the grid is (row, heads, queries)."""
    return (
        pl.BlockSpec((1, rows, lanes), lambda b, h, i: (b, i, h)),
        pl.BlockSpec((1, s, lanes), lambda b, h, i: (b, 0, h)),
        pl.BlockSpec((1, 1, s), lambda b, h, i: (b, 0, 0)),
    )


def _parameters() -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def _cost(arrays: list[Array], results: list[Array], products: int, s: int) -> pl.CostEstimate:
    """Tell the compiler, and `training.instruments.flops`, what a call costs: neither looks inside.

    Args:
      arrays: operands, the first one [B, T, H * K].
      results: arrays of the shapes and dtypes of the results.
      products: number of products of size T x S x K for each head.
      s: number of keys.
    """
    moved = sum(x.size * x.dtype.itemsize for x in (*arrays, *results))
    flops = 2 * products * arrays[0].size * s
    return pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved)


def _dot(a: Array, b: Array, contracted: tuple[int, int]) -> Array:
    dims = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _weights(q: Array, k: Array, bias: Array | None) -> tuple[Array, Array]:
    """Return one head's unnormalised weights [T, S], and their sums [T, 1]."""
    logits = _dot(q, k, (1, 1))
    if bias is not None:
        logits = logits + bias
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights, weights.sum(axis=1, keepdims=True)


def _head(ref, head: int, heads: int) -> tuple:
    """Return the index of one head in a block [1, n, heads * K]."""
    width = ref.shape[-1] // heads
    return 0, slice(None), slice(head * width, (head + 1) * width)


def _scaled(q: Array, width: int) -> Array:
    # In float32: chips before v6e have no 16-bit arithmetic but in products.
    return (q.astype(jnp.float32) * width**-0.5).astype(q.dtype)


def _forward_kernel(q_ref, k_ref, v_ref, *refs, heads: int, masked: bool):
    bias, out_ref = (refs[0][0], refs[1]) if masked else (None, refs[0])
    for head in range(heads):
        at = _head(q_ref, head, heads)
        q, k, v = q_ref[at], k_ref[at], v_ref[at]
        weights, total = _weights(_scaled(q, q.shape[1]), k, bias)
        out = _dot(weights.astype(v.dtype), v, (1, 0)) / total
        out_ref[at] = out.astype(out_ref.dtype)


def _backward_kernel(q_ref, k_ref, v_ref, d_out_ref, *refs, heads: int, masked: bool, left: int):
    bias, refs = (refs[0][0], refs[1:]) if masked else (None, refs)
    d_q_ref, d_k_ref, d_v_ref, sum_k, sum_v = refs
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        sum_k[...] = jnp.zeros_like(sum_k)
        sum_v[...] = jnp.zeros_like(sum_v)

    for head in range(heads):
        at = _head(q_ref, head, heads)
        q, k, v, d_out = q_ref[at], k_ref[at], v_ref[at], d_out_ref[at]
        if left:
            # Rows over the end hold anything, and must not add to the sums.
            rows = jax.lax.broadcasted_iota(jnp.int32, q.shape, 0) + step * q.shape[0]
            q, d_out = (jnp.where(rows < left, x, jnp.zeros_like(x)) for x in (q, d_out))
        scale = q.shape[1] ** -0.5
        q = _scaled(q, q.shape[1])
        weights, total = _weights(q, k, bias)
        weights = weights / total
        d_weights = _dot(d_out, v, (1, 1))
        delta = (weights * d_weights).sum(axis=1, keepdims=True)
        d_logits = (weights * (d_weights - delta)).astype(q.dtype)
        d_q_ref[at] = (_dot(d_logits, k, (1, 0)) * scale).astype(d_q_ref.dtype)
        sum_k[at[1:]] += _dot(d_logits, q, (0, 0))
        sum_v[at[1:]] += _dot(weights.astype(v.dtype), d_out, (0, 0))

    @pl.when(step == pl.num_programs(2) - 1)
    def _():
        d_k_ref[0] = sum_k[...].astype(d_k_ref.dtype)
        d_v_ref[0] = sum_v[...].astype(d_v_ref.dtype)
