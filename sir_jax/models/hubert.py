"""HuBERT (arXiv 2106.07447), equal to `transformers.HubertModel` but unaffected by padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import HubertSpec
from sir_jax.models.attention import Flash
from sir_jax.models.convolution import grouped_conv, strided_conv
from sir_jax.models.layers import ACTIVATIONS, Array, block_stack, dense, layer_norm, run_blocks


class HubertOutput(NamedTuple):
    """The output of `Hubert`."""

    tokens: Array  # [B, T, D], after the last norm
    mask: Array  # [B, T], True for frames that depend on valid samples only
    states: tuple[Array, ...]  # 1 + layers arrays [B, T, D], `hidden_states` in `transformers`


def conv_lengths(spec: HubertSpec, lengths: Array, layers: int | None = None) -> Array:
    """Return the number of valid frames after the first `layers` convolutions.

    Args:
      spec: the encoder's shape.
      lengths: number of valid samples, [B]. A clip too short for a frame counts as one frame.
      layers: number of convolutions; None for all.

    Returns:
      [B], each at least 1.

    Example:
      >>> print(conv_lengths(HubertSpec(), jnp.array([0, 400, 16_000])))
      [ 1  1 49]
    """
    frames = jnp.maximum(lengths, spec.min_samples)
    for kernel, stride in list(zip(spec.conv_kernel, spec.conv_stride, strict=True))[:layers]:
        frames = (frames - kernel) // stride + 1
    return frames


class MaskedGroupNorm(nn.Module):
    """Group norm with one channel per group, over the valid frames only.

    `transformers` includes padding in the statistics, so that its features depend on the amount of
    padding. Without padding both are equal.
    """

    epsilon: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Normalise x [B, T, D] over the frames for which mask [B, T] is True."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        x = x.astype(jnp.float32)
        # Means over time are matrix products: XLA's reduction over the major axis of a batch of one
        # is 10x slower on CPU.
        keep = mask.astype(jnp.float32)
        keep = (keep / jnp.maximum(keep.sum(axis=1, keepdims=True), 1.0))[:, None, :]
        mean = jnp.matmul(keep, x, precision="highest")
        var = jnp.matmul(keep, jnp.square(x - mean), precision="highest")
        return ((x - mean) * jax.lax.rsqrt(var + self.epsilon) * scale + bias).astype(self.dtype)


class ConvLayer(nn.Module):
    """One convolution of the waveform front end, with its norm and activation."""

    width: int
    kernel: int
    stride: int
    use_bias: bool
    norm: str  # 'none', 'group' or 'layer'
    activation: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Map x [B, T, C] to [B, T', width]; mask [B, T'] is True for valid output frames."""
        shape = (self.kernel, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        y = strided_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        if self.norm == "group":
            y = MaskedGroupNorm(1e-5, self.dtype, name="norm")(y, mask)
        elif self.norm == "layer":
            y = layer_norm(1e-5, self.dtype, name="norm")(y)
        return ACTIVATIONS[self.activation](y)


class Frontend(nn.Module):
    """The stack of convolutions that maps samples to frames."""

    spec: HubertSpec
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        spec = self.spec
        norms = ["layer"] * len(spec.conv_width)
        if spec.conv_norm == "group":
            norms = ["group"] + ["none"] * (len(spec.conv_width) - 1)
        self.convs = [
            ConvLayer(
                spec.conv_width[i],
                spec.conv_kernel[i],
                spec.conv_stride[i],
                spec.conv_bias,
                norms[i],
                spec.conv_activation,
                self.dtype,
                name=f"conv_{i}",
            )
            for i in range(len(spec.conv_width))
        ]

    def __call__(self, wave: Array, lengths: Array) -> Array:
        """Map wave [B, N] with `lengths` [B] valid samples to frames [B, T, C]."""
        x = wave[..., None]
        for i, conv in enumerate(self.convs):
            kernel, stride = self.spec.conv_kernel[i], self.spec.conv_stride[i]
            frames = (x.shape[1] - kernel) // stride + 1
            valid = conv_lengths(self.spec, lengths, i + 1)
            x = conv(x, jnp.arange(frames)[None, :] < valid[:, None])
        return x


class PositionalConv(nn.Module):
    """HuBERT's position embedding: a weight-normed grouped convolution."""

    width: int
    kernel: int
    groups: int
    activation: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map x [B, T, D], zero where padded, to [B, T, D]."""
        shape = (self.kernel, self.width // self.groups, self.width)
        std = 2.0 * (1.0 / (self.kernel * self.width)) ** 0.5
        v = self.param("v", nn.initializers.normal(std), shape).astype(jnp.float32)
        # One gain per tap: PyTorch's weight_norm with dim=2 of the [out, in, tap] layout.
        norm = jnp.sqrt(jnp.square(v).sum(axis=(1, 2), keepdims=True))
        g = self.param("g", lambda key: norm)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        kernel = (g * v / norm).astype(self.dtype)
        # `transformers` pads an even kernel by half on both sides and drops the last frame.
        left, right = self.kernel // 2, self.kernel // 2 - (self.kernel % 2 == 0)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (left, right), (0, 0)))
        y = grouped_conv(x, kernel, self.groups) + bias.astype(self.dtype)
        return ACTIVATIONS[self.activation](y)


class Hubert(nn.Module):
    """The speech encoder: waveform to frame features.

    Without padding it equals `transformers.HubertModel`.
    """

    spec: HubertSpec
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    scan: bool = False  # run the layers as a loop; see `run_blocks`
    implementation: str | Flash = "xla"  # see `attention.attend`

    def setup(self):
        spec = self.spec
        self.frontend = Frontend(spec, self.dtype)
        self.feature_norm = layer_norm(spec.epsilon, self.dtype)
        self.feature_projection = dense(spec.width, self.dtype)
        self.positional_conv = PositionalConv(
            spec.width, spec.pos_kernel, spec.pos_groups, spec.conv_activation, self.dtype
        )
        self.norm = layer_norm(spec.epsilon, self.dtype)
        self.blocks = block_stack(
            spec.layers,
            self.remat,
            width=spec.width,
            heads=spec.heads,
            mlp_width=spec.mlp_width,
            activation=spec.activation,
            epsilon=spec.epsilon,
            norm_first=spec.norm_first,
            dropout=spec.dropout,
            dtype=self.dtype,
            implementation=self.implementation,
        )
        self.drop = nn.Dropout(spec.dropout)

    def __call__(self, wave: Array, lengths: Array, deterministic: bool = True) -> HubertOutput:
        """Encode speech; padding never changes a valid frame.

        Args:
          wave: samples at 16 kHz, normalised as the checkpoint needs, [B, N]. Clips shorter than
            one frame are padded with zeros to one frame.
          lengths: number of valid samples, [B]; samples beyond it are ignored.
          deterministic: False turns dropout on (needs the rng 'dropout').
        """
        spec = self.spec
        short = spec.min_samples - wave.shape[1]
        if short > 0:
            wave = jnp.pad(wave, ((0, 0), (0, short)))
        # Callers may pad with any value.
        wave = jnp.where(jnp.arange(wave.shape[1])[None, :] < lengths[:, None], wave, 0.0)
        x = self.frontend(wave, lengths)
        mask = jnp.arange(x.shape[1])[None, :] < conv_lengths(spec, lengths)[:, None]
        x = self.feature_projection(self.feature_norm(x))
        x = self.drop(x, deterministic=deterministic)
        x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        x = x + self.positional_conv(x)
        if not spec.norm_first:
            x = self.norm(x)
        x = self.drop(x, deterministic=deterministic)
        states = (x, *run_blocks(self.blocks, x, mask, deterministic, self.scan))
        x = states[-1]
        if spec.norm_first:
            x = self.norm(x)
        return HubertOutput(x, mask, states)
