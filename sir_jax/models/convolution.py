"""HuBERT's strided and grouped convolutions, formulated for each backend as it runs them fastest.

`platform_dependent` decides at lowering: a CPU machine that compiles for a TPU gets the TPU's
program. All formulations compute the same sums in a different order.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

_LAYOUT = ("NWC", "WIO", "NWC")
# Most taps in one product of `grouped_matmul`: 16 x 48 channels fill a TPU's lanes and a GPU's
# tiles.
_MAX_INNER = 16


def _conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride,), "VALID", dimension_numbers=_LAYOUT)


def _gradients(fn, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    # A convolution is linear in each argument: XLA drops the unused output of jax.vjp.
    return jax.vjp(fn, x, kernel)[1](dy)


def strided_matmul(x: Array, kernel: Array, stride: int) -> Array:
    """Compute `strided_conv` as products: blocks of `stride` frames with slices of the kernel."""
    b, n, c = x.shape
    taps, _, width = kernel.shape
    frames = (n - taps) // stride + 1
    blocks = -(-taps // stride)
    need = (frames + blocks - 1) * stride
    x = jnp.pad(x, ((0, 0), (0, max(0, need - n)), (0, 0)))[:, :need]
    x = x.reshape(b, frames + blocks - 1, stride * c)
    y = 0.0
    for i in range(blocks):
        part = kernel[i * stride : (i + 1) * stride].reshape(-1, width)
        y = y + x[:, i : i + frames, : part.shape[0]] @ part
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_conv(x: Array, kernel: Array, stride: int) -> Array:
    """Convolve with a stride, without padding.

    On CUDA this is a sum of matrix products: cuDNN finds no algorithm for most 1-D convolutions in
    bfloat16 (jax issue 37922).

    Args:
      x: [B, N, C].
      kernel: [taps, C, D].
      stride: number of input frames between two output frames.

    Returns:
      [B, (N - taps) // stride + 1, D].

    Example:
      >>> x, kernel = jnp.arange(5.0).reshape(1, 5, 1), jnp.ones((3, 1, 1))
      >>> print(strided_conv(x, kernel, 2).squeeze())
      [3. 9.]
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cuda=functools.partial(strided_matmul, stride=stride),
        default=functools.partial(_conv, stride=stride),
    )


def _strided_fwd(x, kernel, stride):
    return strided_conv(x, kernel, stride), (x, kernel)


def _strided_bwd(stride, residuals, dy):
    matmul = functools.partial(strided_matmul, stride=stride)
    conv = functools.partial(_conv, stride=stride)
    return jax.lax.platform_dependent(
        *residuals,
        dy,
        cuda=functools.partial(_gradients, matmul),
        default=functools.partial(_gradients, conv),
    )


strided_conv.defvjp(_strided_fwd, _strided_bwd)


def grouped_matmul(x: Array, kernel: Array, groups: int) -> Array:
    """Compute `grouped_conv` as one product per group.

    The taps are split into outer * inner. `inner` shifted copies of the input are stacked, which
    makes the product deep; `outer` shifted parts of its result are added up.
    """
    b, n, width = x.shape
    taps, channels, _ = kernel.shape
    inner = max(m for m in range(1, _MAX_INNER + 1) if taps % m == 0)
    outer, frames = taps // inner, n - taps + 1
    span = frames + taps - inner
    x = x.reshape(b, n, groups, channels)
    x = jnp.stack([x[:, i : i + span] for i in range(inner)], axis=3)
    kernel = kernel.reshape(outer, inner, channels, groups, width // groups)
    y = jnp.einsum("btgic,oicgd->obtgd", x, kernel)
    y = sum(y[i, :, i * inner : i * inner + frames] for i in range(outer))
    return y.reshape(b, frames, width)


def _per_group(fn, groups: int, *arrays: Array) -> Array:
    """Apply fn to each group's slice of the last axes and concatenate along the last axis."""
    parts = zip(*(jnp.split(a, groups, axis=-1) for a in arrays), strict=True)
    return jnp.concatenate([fn(*part) for part in parts], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def grouped_conv(x: Array, kernel: Array, groups: int) -> Array:
    """Convolve with channels in groups, without padding.

    On CPU XLA computes the kernel's gradient of a grouped convolution in a naive loop, 40x slower
    than PyTorch. One plain convolution per group, with batch and channels swapped for that
    gradient, is faster than PyTorch. On CUDA XLA's grouped convolution costs as much as one without
    groups (jax issue 13800), and a TPU pads a group of 48 channels to 128 lanes: both use
    `grouped_matmul`.

    Args:
      x: [B, T + taps - 1, D].
      kernel: [taps, D / groups, D]; output channels are ordered by group.
      groups: number of groups.

    Returns:
      [B, T, D].
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _per_group(_conv, groups, x, kernel),
        default=functools.partial(grouped_matmul, groups=groups),
    )


def _grouped_fwd(x, kernel, groups):
    return grouped_conv(x, kernel, groups), (x, kernel)


def _per_group_gradients(x, kernel, dy, groups):
    taps = kernel.shape[0]
    padded = jnp.pad(dy, ((0, 0), (taps - 1, taps - 1), (0, 0)))

    def d_input(dy_g, kernel_g):
        return _conv(dy_g, kernel_g[::-1].swapaxes(1, 2))

    def d_kernel(x_g, dy_g):
        # Input [C, T + taps - 1, B] and kernel [T, B, C'] give [C, taps, C'].
        return _conv(x_g.transpose(2, 1, 0), dy_g.transpose(1, 0, 2)).swapaxes(0, 1)

    return _per_group(d_input, groups, padded, kernel), _per_group(d_kernel, groups, x, dy)


def _grouped_bwd(groups, residuals, dy):
    matmul = functools.partial(grouped_matmul, groups=groups)
    return jax.lax.platform_dependent(
        *residuals,
        dy,
        cpu=functools.partial(_per_group_gradients, groups=groups),
        default=functools.partial(_gradients, matmul),
    )


grouped_conv.defvjp(_grouped_fwd, _grouped_bwd)
