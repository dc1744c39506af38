"""The fusion encoder: one modality's tokens read the other's by cross-attention."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.models.layers import Array, cross_stack, dense, layer_norm

# What the fusion encoder can be asked for; each has parameters of its own.
TASKS = ("match", "denoise_speech", "denoise_image")


@dataclasses.dataclass(frozen=True)
class FusionSpec:
    """Everything that fixes the fusion encoder's shape; the layers are BERT's with cross-attention.

    The defaults are ALBEF's (arXiv 2107.07651), speech standing for text.
    """

    layers: int = 6
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    query: str = "speech"  # whose CLS is asked whether a pair matches; 'image' reads speech instead
    self_attention: bool = True  # without it, a noisy token knows its neighbours only through
    # the other modality
    init_std: float = 0.02  # of all kernels: BERT's, for its width; a narrow encoder that starts
    # from nothing learns several times sooner from 1 / sqrt(width)
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1

    def __post_init__(self):
        if self.query not in ("speech", "image"):
            raise ValueError(f"query {self.query!r} is neither 'speech' nor 'image'")
        if self.layers < 1:
            raise ValueError(f"layers {self.layers} is not at least 1")
        if self.width % 2:
            raise ValueError(f"width {self.width} is odd")


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
            spec.layers, self.remat, width=spec.width, heads=spec.heads,
            mlp_width=spec.mlp_width, activation=spec.activation, epsilon=spec.epsilon,
            dropout=spec.dropout, own=spec.self_attention, init_std=spec.init_std,
            dtype=self.dtype, implementation=self.implementation,
        )  # fmt: skip

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
