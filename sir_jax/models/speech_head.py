"""Speech heads: what makes the tokens of a clip, the first of which stands for the whole clip."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import HeadSpec
from sir_jax.models.attention import Flash
from sir_jax.models.layers import ACTIVATIONS, Array, block_stack, dense, kernel_init, layer_norm


class TransformerHead(nn.Module):
    """A learnt CLS token, and transformer layers over it and the frames."""

    spec: HeadSpec
    width: int
    states: int  # number of the encoder's hidden states
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    implementation: str | Flash = "xla"  # see `attention.attend`

    def setup(self):
        spec = self.spec
        if spec.weigh_layers:
            self.layer_weights = self.param("layer_weights", nn.initializers.zeros, (self.states,))
        self.cls = self.param("cls", kernel_init, (self.width,))
        self.blocks = block_stack(
            spec.layers,
            self.remat,
            width=self.width,
            heads=spec.heads,
            mlp_width=spec.mlp_width,
            activation="gelu",
            epsilon=1e-5,
            norm_first=False,
            dropout=spec.dropout,
            dtype=self.dtype,
            implementation=self.implementation,
        )
        self.norm = layer_norm(1e-5, self.dtype)

    def __call__(self, encoded, deterministic: bool) -> tuple[Array, Array]:
        """Map a `HubertOutput` to tokens [B, 1 + T, D] and mask [B, 1 + T]."""
        x = _frames(encoded, self.layer_weights if self.spec.weigh_layers else None)
        b = x.shape[0]
        cls = jnp.broadcast_to(self.cls.astype(x.dtype), (b, 1, self.width))
        x = jnp.concatenate([cls, x], axis=1)
        mask = _with_first(encoded.mask)
        for block in self.blocks:
            x = block(x, mask, deterministic)
        return self.norm(x), mask


class ConvHead(nn.Module):
    """Convolutions over the frames, of which places along the clip are read and put together.

    The places are fixed, and what is read there is learnt. So the first token knows the order of
    what is said from the start; attention from one CLS token has to find it.
    """

    spec: HeadSpec
    width: int
    states: int  # number of the encoder's hidden states
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        spec, d = self.spec, self.width
        if spec.weigh_layers:
            self.layer_weights = self.param("layer_weights", nn.initializers.zeros, (self.states,))
        std = (spec.taps * d) ** -0.5
        self.convolutions = [
            dense(d, self.dtype, name=f"layers_{i:02d}", init_std=std) for i in range(spec.layers)
        ]
        self.drop = nn.Dropout(spec.dropout)
        self.places = dense(spec.places, self.dtype, init_std=d**-0.5)
        if spec.hidden:
            self.norm_in = layer_norm(1e-5, self.dtype)
            self.hidden = dense(spec.hidden, self.dtype, init_std=(spec.places * d) ** -0.5)
        self.summary = dense(d, self.dtype, init_std=(spec.hidden or spec.places * d) ** -0.5)
        self.norm = layer_norm(1e-5, self.dtype)

    def __call__(self, encoded, deterministic: bool) -> tuple[Array, Array]:
        """Map a `HubertOutput` to tokens [B, 1 + T, D] and mask [B, 1 + T]."""
        x = _frames(encoded, self.layer_weights if self.spec.weigh_layers else None)
        if self.spec.hidden:
            x = self.norm_in(x)
        mask = encoded.mask
        # Zeros before each layer, as a convolution would read the padding into the last frames.
        x = jnp.where(mask[..., None], x, 0)
        for convolution in self.convolutions:
            x = ACTIVATIONS["gelu"](convolution(neighbours(x, self.spec.taps)))
            x = jnp.where(mask[..., None], self.drop(x, deterministic=deterministic), 0)
        logits = self.places(x).astype(jnp.float32) - place_distances(mask, self.spec.places)
        share = jax.nn.softmax(jnp.where(mask[..., None], logits, -1e9), axis=1)
        read = jnp.einsum("btp,btd->bpd", share.astype(x.dtype), x)
        read = read.reshape(read.shape[0], -1)
        first = self.summary(ACTIVATIONS["gelu"](self.hidden(read)) if self.spec.hidden else read)
        return self.norm(jnp.concatenate([first[:, None], x], axis=1)), _with_first(mask)


def place_distances(mask: Array, places: int) -> Array:
    """Return how far each frame is from each place of its clip, squared, in places.

    Place p of P is at (p + 1/2) / P of the clip's valid frames.

    Args:
      mask: True for valid frames, which come first, [B, T].
      places: P.

    Returns:
      float32 [B, T, P].
    """
    valid = jnp.maximum(mask.sum(axis=1), 1).astype(jnp.float32)
    at = (jnp.arange(mask.shape[1]) + 0.5) / valid[:, None] * places
    return jnp.square(at[..., None] - (jnp.arange(places) + 0.5))


def neighbours(x: Array, taps: int) -> Array:
    """Put each frame's neighbours beside it: [B, T, D] -> [B, T, taps * D], zeros at the ends."""
    t, half = x.shape[1], taps // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    return jnp.concatenate([padded[:, i : i + t] for i in range(taps)], axis=-1)


def _frames(encoded, layer_weights: Array | None) -> Array:
    """Return the frames of a `HubertOutput` [B, T, D]: weighted states, or the last one."""
    if layer_weights is None:
        return encoded.tokens
    states, weights = jnp.stack(encoded.states), jax.nn.softmax(layer_weights)
    return jnp.einsum("lbtd,l->btd", states, weights.astype(states.dtype))


def _with_first(mask: Array) -> Array:
    """Return a mask with a valid token in front: [B, T] -> [B, 1 + T]."""
    return jnp.concatenate([jnp.ones((mask.shape[0], 1), bool), mask], axis=1)
