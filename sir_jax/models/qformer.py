"""BLIP-2's image side (arXiv 2301.12597): a ViT, and the Q-Former whose queries attend to it."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import Blip2Spec, QFormerSpec
from sir_jax.models.attention import Flash
from sir_jax.models.layers import Array, cross_stack, dense, kernel_init, layer_norm
from sir_jax.models.vit import Vit, VitOutput


class QFormerOutput(NamedTuple):
    """The output of `QFormer`."""

    tokens: Array  # [B, queries, D], `last_hidden_state` in `transformers`
    projected: Array | None  # [B, queries, E], not normalised; None without a projection
    states: tuple[Array, ...]  # 1 + layers arrays [B, queries, D]


class QFormer(nn.Module):
    """Learnt queries that attend to an image.

    Equals `transformers.Blip2QFormerModel` without text input.
    """

    spec: QFormerSpec
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    implementation: str | Flash = "xla"  # see `attention.attend`

    def setup(self):
        spec = self.spec
        self.queries = self.param("queries", kernel_init, (spec.queries, spec.width))
        self.norm = layer_norm(spec.epsilon, self.dtype)
        self.drop = nn.Dropout(spec.dropout)
        self.blocks = cross_stack(
            spec.layers,
            self.remat,
            spec.cross_every,
            width=spec.width,
            heads=spec.heads,
            mlp_width=spec.mlp_width,
            activation=spec.activation,
            epsilon=spec.epsilon,
            dropout=spec.dropout,
            dtype=self.dtype,
            implementation=self.implementation,
        )
        if spec.projection:
            self.projection = dense(spec.projection, self.dtype)

    def __call__(self, context: Array, deterministic: bool = True) -> QFormerOutput:
        """Let the queries attend to images.

        Args:
          context: an image encoder's tokens, all valid, [B, P, C].
          deterministic: False turns dropout on (needs the rng 'dropout').
        """
        x = self.norm(self.queries.astype(self.dtype))
        x = jnp.broadcast_to(x, (context.shape[0], *x.shape))
        x = self.drop(x, deterministic=deterministic)
        states = [x]
        for block in self.blocks:
            x = block(x, None, context, None, deterministic, None)
            states.append(x)
        projected = self.projection(x) if self.spec.projection else None
        return QFormerOutput(x, projected, tuple(states))


class Blip2(nn.Module):
    """The image side of the BLIP-2 classes in `transformers`: pixels to query features."""

    spec: Blip2Spec
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    implementation: str | Flash = "xla"  # see `attention.attend`

    def setup(self):
        common = dict(remat=self.remat, dtype=self.dtype, implementation=self.implementation)
        self.vision = Vit(self.spec.vision, **common)
        self.qformer = QFormer(self.spec.qformer, **common)

    def __call__(
        self, pixels: Array, deterministic: bool = True
    ) -> tuple[VitOutput, QFormerOutput]:
        """Encode pixels [B, image_size, image_size, 3], normalised as the checkpoint needs."""
        vision = self.vision(pixels, deterministic)
        return vision, self.qformer(vision.tokens, deterministic)
