"""The fusion encoder: tokens of one modality attend to those of the other."""

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import FusionSpec
from sir_jax.models.attention import Flash
from sir_jax.models.layers import Array, cross_stack, dense, layer_norm

# What a model does beside embedding. The fusion encoder's tasks share its layers, each with an
# output head of its own; 'pool', the pooled match, does without it, and so does 'match' by late
# interaction.
TASKS = ("match", "pool", "denoise_speech", "denoise_image")


def sinusoids(length: int, width: int) -> Array:
    """Return the sinusoidal position code of arXiv 1706.03762, sines before cosines.

    Args:
      length: number of positions.
      width: even.

    Returns:
      float32 [length, width].

    Example:
      >>> print(sinusoids(1, 4))
      [[0. 0. 1. 1.]]
    """
    rates = 1e4 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Fusion(nn.Module):
    """Cross-attention layers with an input projection for each modality, shared by all tasks."""

    spec: FusionSpec
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    implementation: str | Flash = "xla"  # see `attention.attend`

    def setup(self):
        spec = self.spec
        self.speech_in = dense(spec.width, self.dtype, init_std=spec.init_std)
        self.image_in = dense(spec.width, self.dtype, init_std=spec.init_std)
        self.speech_norm = layer_norm(spec.epsilon, self.dtype)
        self.image_norm = layer_norm(spec.epsilon, self.dtype)
        self.drop = nn.Dropout(spec.dropout)
        self.blocks = cross_stack(
            spec.layers,
            self.remat,
            width=spec.width,
            heads=spec.heads,
            mlp_width=spec.mlp_width,
            activation=spec.activation,
            epsilon=spec.epsilon,
            dropout=spec.dropout,
            self_attention=spec.self_attention,
            init_std=spec.init_std,
            dtype=self.dtype,
            implementation=self.implementation,
        )

    def __call__(
        self,
        tokens: Array,
        mask: Array,
        context: Array,
        context_mask: Array,
        query: str,
        deterministic: bool = True,
        rows: int | None = None,
    ) -> Array:
        """Let the tokens of one modality attend to those of the other.

        The tokens get a position code. Denoising needs it: the encoder gave a replaced token the
        position that it had in another item.

        Args:
          tokens: tokens of the querying modality, [B, T, D] with its encoder's width.
          mask: True where such a token is valid, [B, T].
          context: tokens of the other modality, [B, S, C] with its encoder's width.
          context_mask: True where a context token is valid, [B, S].
          query: the querying modality: 'speech' or 'image'.
          deterministic: False turns dropout on (needs the rng 'dropout').
          rows: number of leading tokens that the last layer computes; None for all.

        Returns:
          [B, T or rows, W] with the fusion encoder's width W.
        """
        own, other = (self.speech_in, self.speech_norm), (self.image_in, self.image_norm)
        if query == "image":
            own, other = other, own
        project, norm = own
        x = project(tokens)
        x = norm(x + sinusoids(x.shape[1], x.shape[2]).astype(x.dtype))
        x = self.drop(x, deterministic=deterministic)
        # CLIP's patch tokens are not normalised, and a few of their features are tens of times
        # larger than the rest. Without this norm the attention would stay where it starts.
        project, norm = other
        context = norm(project(context))
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            x = block(x, mask, context, context_mask, deterministic, rows if last else None)
        return x


def cross_attention(intermediates: dict) -> Array:
    """Stack the cross-attention weights that `Fusion` has sown: float32 [layers, B, H, T, S]."""
    layers = sorted(name for name in intermediates if name.startswith("layers_"))
    return jnp.stack([intermediates[name]["cross_attention"]["weights"][0] for name in layers])
