"""The fusion encoder: one modality's tokens read the other's by cross-attention."""

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import FusionSpec
from sir_jax.models.layers import Array, cross_stack, dense, layer_norm

# What the fusion encoder can be asked for; each has parameters of its own.
TASKS = ("match", "denoise_speech", "denoise_image")


def sinusoids(length: int, width: int) -> Array:
    """Return the position code of arXiv 1706.03762, float32 [length, width]; sines first."""
    rates = 1e4 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Fusion(nn.Module):
    """Cross-attention layers with an input projection for each modality, shared by all tasks."""

    spec: FusionSpec
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    implementation: str = "xla"  # of `attention.IMPLEMENTATIONS`

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
            own=spec.self_attention,
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
        """Let one modality's tokens read the other's.

        The tokens get a position code: one that came from another place must be told where it is.

        Args:
          tokens: the reading stream, [B, T, D] of its encoder's width.
          mask: True for its valid tokens, [B, T].
          context: the other modality's tokens, [B, S, C] of its encoder's width.
          context_mask: True for its valid tokens, [B, S].
          query: which modality reads: 'speech' or 'image'.
          deterministic: False turns dropout on (needs the rng 'dropout').
          rows: compute the last layer for so many leading tokens only; None for all.

        Returns:
          [B, T or rows, W].
        """
        own, other = (self.speech_in, self.speech_norm), (self.image_in, self.image_norm)
        if query == "image":
            own, other = other, own
        project, norm = own
        x = project(tokens)
        x = norm(x + sinusoids(x.shape[1], x.shape[2]).astype(x.dtype))
        x = self.drop(x, deterministic=deterministic)
        # CLIP's patch tokens leave it without a norm, some of their features tens of times larger
        # than the rest: read as they are, they freeze the attention where it happens to look.
        project, norm = other
        context = norm(project(context))
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            x = block(x, mask, context, context_mask, deterministic, rows if last else None)
        return x


def cross_attention(intermediates: dict) -> Array:
    """Stack the cross-attention weights that a `Fusion` has sown, float32 [layers, B, H, T, S]."""
    layers = sorted(name for name in intermediates if name.startswith("layers_"))
    return jnp.stack([intermediates[name]["cross_attention"]["weights"][0] for name in layers])
