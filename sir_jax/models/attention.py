"""Scaled dot-product attention that keeps no [T, S] matrix for the backward pass.

Shapes have T queries and S keys.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from sir_jax.config.specs import IMPLEMENTATIONS

Array = jax.Array

# Bytes of float32 logits that exist at a time. On CPU, glibc returns blocks above 32 MB to the
# kernel at every free, and the page faults of getting them back cost more than the products. So the
# rows of a batch are computed in groups below that size; `_MAX_GROUPS` bounds the program's length.
# The queries of one row are split only if its logits alone exceed `_ROW_BYTES`: minutes of sound.
_GROUP_BYTES = 14 << 20
_MAX_GROUPS = 16
_ROW_BYTES = 1 << 30

_LANES = 128
# Bytes of one block's float32 logits, of which the backward pass holds five at a time; and of the
# vector memory that a kernel may take, of 16 MiB that the compiler allows.
_LOGIT_BYTES = 1 << 20
_BLOCK_BYTES = 14 << 20


@dataclasses.dataclass(frozen=True)
class Flash:
    """TPUs that run the kernel `flash`.

    The compiler cannot partition a kernel: each device calls it on its own rows and heads.

    Attributes:
      mesh: of the program; None for one device.
      rows: axes of the mesh that a batch's rows lie over.
      heads: axes of the mesh that heads lie over.
      always: whether to take it wherever it fits, or where it moves fewer bytes.
      interpret: whether to run it on CPU, slowly, for tests.
    """

    mesh: Mesh | None = None
    rows: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    always: bool = False
    interpret: bool = False

    def takes(self, q: Array, k: Array) -> bool:
        """Tell whether attention of q [B, T, H, K] to k [B, S, H, K] is for the kernel.

        Not so where rows or heads do not divide over the mesh, or a block takes too much memory.
        Those go to XLA, as do short streams where `always` is False.
        """
        (b, t, h, width), s = q.shape, k.shape[1]
        rows, heads = self._parts(self.rows), self._parts(self.heads)
        if b % rows or h % heads:
            return False
        if _flash_bytes(t, s, h // heads, width, q.dtype.itemsize) > _BLOCK_BYTES:
            return False
        return self.always or moves_less(t, s)

    def run(self, name: str, heads: int, results: int, *arrays: Array | None):
        """Call `flash.forward` or `flash.backward` on each device's rows and heads.

        Args:
          name: of the function.
          heads: H, of all devices.
          results: number of its results.
          *arrays: its arguments: q, k and v [B, n, H * K], a bias [B, 1, S] or None, and the rest.
        """
        # Pallas takes a third of a second to import, and few programs need it.
        from sir_jax.models import flash

        (t, d), s = arrays[0].shape[1:], arrays[1].shape[1]
        width = d // heads
        block = flash_block(t, s, heads // self._parts(self.heads), width)
        fields = dict(width=width, block=block, interpret=self.interpret)
        fn = functools.partial(getattr(flash, name), **fields)
        if self.mesh is None:
            return fn(*arrays)
        split = PartitionSpec(self.rows, None, self.heads)
        specs = [split] * len(arrays)
        specs[3] = PartitionSpec(self.rows)
        out = split if results == 1 else (split,) * results
        on_mesh = dict(mesh=self.mesh, in_specs=tuple(specs), out_specs=out, check_vma=False)
        return jax.shard_map(fn, **on_mesh)(*arrays)

    def _parts(self, axes: tuple[str, ...]) -> int:
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in axes)


def moves_less(t: int, s: int) -> bool:
    """Tell whether the kernel moves fewer bytes than XLA's attention, T queries and S keys.

    By the TPU compiler it does from 50 x 50 up, the smallest that was compiled: see docs/pods.md.
    """
    return t * s >= 50 * 50


def flash_block(t: int, s: int, heads: int, width: int) -> tuple[int, int]:
    """Return (rows of queries, heads) of a block.

    A block's lanes are a multiple of 128, or all that there are. Its rows are a multiple of 16, or
    all, so many that the logits of a head stay within `_LOGIT_BYTES`.
    """
    together = math.lcm(width, _LANES) // width
    together = together if heads % together == 0 else heads
    most = max(16, _LOGIT_BYTES // (4 * s))
    if t <= most:
        return t, together
    rows = -(-t // -(-t // most))
    return -(-rows // 16) * 16, together


def _flash_bytes(t: int, s: int, heads: int, width: int, itemsize: int) -> int:
    """Return what the backward pass holds: seven blocks, each twice, float32 sums, and logits."""
    rows, together = flash_block(t, s, heads, width)
    lanes = -(-together * width // _LANES) * _LANES
    return lanes * (2 * itemsize * (3 * rows + 4 * s) + 2 * 4 * s) + 5 * 4 * rows * s


def attend(
    q: Array, k: Array, v: Array, mask: Array | None, implementation: str | Flash = "xla"
) -> Array:
    """Compute scaled dot-product attention with a float32 softmax.

    As in FlashAttention (arXiv 2205.14135), the division by the softmax's sum follows the product
    with the values, and the backward pass recomputes the weights from queries and keys: nothing of
    size T x S is kept. The mask is added to the logits, which on CPU is 1.5x faster than `where`.

    Args:
      q: queries, [B, T, H, K].
      k: keys, [B, S, H, K].
      v: values, [B, S, H, K].
      mask: True where a key may be attended to, [B, S]; None for all. 'cudnn' needs the True ones
        first, because it is given only their number.
      implementation: one of `IMPLEMENTATIONS`. 'cudnn' needs bfloat16 and K a multiple of 8, and
        falls back to 'xla' without an NVIDIA GPU. 'flash' is a kernel for one TPU, and falls back
        likewise; for a mesh of TPUs give a `Flash`. 'auto' is 'xla' here: see `build_model`.

    Returns:
      [B, T, H, K] in the dtype of `v`. For a row without a valid key 'xla' returns the mean of the
      row's values, 'cudnn' the first value.

    Raises:
      ValueError: `implementation` is unknown.

    Example:
      >>> q, k = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 3, 1, 2))
      >>> v = jnp.array([1.0, 3.0, 9.0]).reshape(1, 3, 1, 1)
      >>> print(attend(q, k, v, jnp.array([[True, True, False]])).squeeze())
      2.0
    """
    if implementation == "flash" and jax.default_backend() == "tpu":
        implementation = Flash(always=True)
    where = implementation if isinstance(implementation, Flash) else None
    if not where and implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")
    if implementation == "cudnn" and jax.default_backend() == "gpu":
        return _library(q, k, v, mask, "cudnn")
    with jax.named_scope("attend"):
        if where and where.takes(q, k):
            merged = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
            bias = None if mask is None else _bias(mask)[:, 0]
            return _flash(*merged, bias, q.shape[2], where).reshape(*q.shape[:3], -1)
        return _plain(q, k, v, _bias(mask))


def _plain(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (_scaled(q), k, v))
    return jnp.swapaxes(_attention(q, k, v, bias), 1, 2)


def _library(q: Array, k: Array, v: Array, mask: Array | None, implementation: str) -> Array:
    """Attend with an implementation of `jax.nn.dot_product_attention`."""
    b, t, s = *q.shape[:2], k.shape[1]
    # Lengths, not the mask: JAX would expand a mask to a bias of size T x S.
    lengths = jnp.full(b, s) if mask is None else jnp.maximum(mask.sum(axis=1), 1)
    # JAX 0.10 treats the call as one with a bias, and with a bias refuses odd T and S in training.
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths.astype(jnp.int32), implementation=implementation
    )
    return out[:, :t]


def attention_weights(q: Array, k: Array, mask: Array | None) -> Array:
    """Return the attention weights that `attend` computes inside, float32 [B, H, T, S]."""
    q, k = jnp.swapaxes(_scaled(q), 1, 2), jnp.swapaxes(k, 1, 2)
    return jax.nn.softmax(_logits(q, k, _bias(mask)), axis=-1)


def _scaled(q: Array) -> Array:
    return q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)


def _bias(mask: Array | None) -> Array | None:
    lowest = jnp.finfo(jnp.float32).min
    return None if mask is None else jnp.where(mask, 0.0, lowest)[:, None, None, :]


def _einsum(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _logits(q, k, bias):
    logits = _einsum("bhtk,bhsk->bhts", q, k)
    return logits if bias is None else logits + bias


@jax.named_scope("logits")
def _forward_all(q, k, v, bias):
    """Return the output, and each query's largest logit and sum of unnormalised weights."""
    logits = _logits(q, k, bias)
    peak = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - peak)
    total = weights.sum(axis=-1, keepdims=True)
    out = _einsum("bhts,bhsk->bhtk", weights.astype(v.dtype), v) / total
    return out.astype(v.dtype), peak, total


@jax.named_scope("logits")
def _backward_all(q, k, v, bias, out, peak, total, d_out):
    weights = jnp.exp(_logits(q, k, bias) - peak) / total
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    d_logits = (weights * (_einsum("bhtk,bhsk->bhts", d_out, v) - delta)).astype(q.dtype)
    d_q = _einsum("bhts,bhsk->bhtk", d_logits, k)
    # The result is transposed after the product: on CPU 1.5x faster than asking for "bhsk".
    d_k = jnp.swapaxes(_einsum("bhtk,bhts->bhks", q, d_logits), -1, -2)
    d_v = jnp.swapaxes(_einsum("bhtk,bhts->bhks", d_out, weights.astype(v.dtype)), -1, -2)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)


def _row_bytes(q: Array, k: Array) -> int:
    return 4 * q.shape[1] * q.shape[2] * k.shape[2]


def _in_groups(fn, *arrays: Array | None) -> tuple[Array, ...]:
    """Apply fn to groups of the batch's rows and concatenate the results."""
    q, k = arrays[:2]
    rows = max(1, _GROUP_BYTES // _row_bytes(q, k), -(-q.shape[0] // _MAX_GROUPS))
    if rows >= q.shape[0]:
        return fn(*arrays)
    cuts = range(0, q.shape[0], rows)
    parts = [fn(*(None if a is None else a[i : i + rows] for a in arrays)) for i in cuts]
    return tuple(jnp.concatenate(part) for part in zip(*parts, strict=True))


def _split_queries(x: Array, pieces: int) -> Array:
    """Split [B, H, T, *] into [pieces, B, H, ceil(T / pieces), *], padded with zeros."""
    size = -(-x.shape[2] // pieces)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, size * pieces - x.shape[2]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:2], pieces, size, x.shape[3]), 2, 0)


def _join_queries(x: Array, length: int) -> Array:
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :length]


def _forward_long(q, k, v, bias):
    """Compute `_forward_all`, in pieces of the queries if the logits of one row are too large."""
    pieces = -(-_row_bytes(q, k) // _ROW_BYTES)
    if pieces == 1:
        return _forward_all(q, k, v, bias)
    parts = jax.lax.map(lambda q: _forward_all(q, k, v, bias), _split_queries(q, pieces))
    return tuple(_join_queries(part, q.shape[2]) for part in parts)


def _backward_long(q, k, v, bias, out, peak, total, d_out):
    pieces = -(-_row_bytes(q, k) // _ROW_BYTES)
    if pieces == 1:
        return _backward_all(q, k, v, bias, out, peak, total, d_out)

    def add(sums, piece):
        q, out, peak, total, d_out = piece
        # A padded query has total 0 and d_out 0; a total of 1 avoids 0 / 0.
        total = jnp.where(total == 0, 1.0, total)
        d_q, d_k, d_v = _backward_all(q, k, v, bias, out, peak, total, d_out)
        return (sums[0] + d_k, sums[1] + d_v), d_q

    cut = tuple(_split_queries(x, pieces) for x in (q, out, peak, total, d_out))
    zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (d_k, d_v), d_q = jax.lax.scan(add, zeros, cut)
    return _join_queries(d_q, q.shape[2]), d_k.astype(k.dtype), d_v.astype(v.dtype)


def _by_platform(fn, *arrays):
    """Call fn on groups of rows on CPU, and on the whole batch elsewhere.

    The platform is that of lowering: a CPU machine that compiles for a TPU gets the TPU's program.
    """
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *a: _in_groups(fn, *a), default=lambda *a: fn(*a)
    )


@jax.custom_vjp
def _attention(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """Attend with q [B, H, T, K], scaled already, and an additive bias [B, 1, 1, S]."""
    return _by_platform(_forward_long, q, k, v, bias)[0]


def _attention_fwd(q, k, v, bias):
    out, peak, total = _by_platform(_forward_long, q, k, v, bias)
    return out, (q, k, v, bias, out, peak, total)


def _attention_bwd(residuals, d_out):
    # The bias comes from a boolean mask: it needs no gradient.
    return *_by_platform(_backward_long, *residuals, d_out), None


_attention.defvjp(_attention_fwd, _attention_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _flash(q: Array, k: Array, v: Array, bias: Array | None, heads: int, where: Flash) -> Array:
    """Attend by the kernel, with arrays [B, n, H * K] and a bias [B, 1, S]."""
    with jax.named_scope("flash"):
        return where.run("forward", heads, 1, q, k, v, bias)


def _flash_fwd(q, k, v, bias, heads, where):
    return _flash(q, k, v, bias, heads, where), (q, k, v, bias)


def _flash_bwd(heads, where, residuals, d_out):
    with jax.named_scope("flash"):
        return *where.run("backward", heads, 3, *residuals, d_out), None


_flash.defvjp(_flash_fwd, _flash_bwd)
