"""The vision transformers of CLIP (arXiv 2103.00020) and BLIP-2 (EVA ViT-g, arXiv 2301.12597)."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import VitSpec
from sir_jax.models.attention import Flash
from sir_jax.models.layers import Array, block_stack, kernel_init, layer_norm, run_blocks


class VitOutput(NamedTuple):
    """The output of `Vit`; names in brackets are those of `transformers`."""

    tokens: Array  # [B, 1 + P, D], token 0 is CLS (`last_hidden_state`)
    pooled: Array  # [B, D], the CLS token after `post_norm` (`pooler_output`)
    states: tuple[Array, ...]  # 1 + layers arrays [B, 1 + P, D], before `post_norm`


class PatchEmbed(nn.Module):
    """Project each patch of an image, as a matrix product: a strided convolution is slower."""

    patch: int
    width: int
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """Map pixels [B, h, w, 3] to [B, P, D], patches in row-major order."""
        b, h, w, c = pixels.shape
        p = self.patch
        kernel = self.param("kernel", kernel_init, (p, p, c, self.width))
        x = pixels.astype(self.dtype).reshape(b, h // p, p, w // p, p, c)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // p) * (w // p), p * p * c)
        x = x @ kernel.astype(self.dtype).reshape(p * p * c, self.width)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return x + bias.astype(self.dtype)


class Vit(nn.Module):
    """The image encoder: pixels to patch features.

    Equals `CLIPVisionModel` and `Blip2VisionModel` of `transformers`.
    """

    spec: VitSpec
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    scan: bool = False  # run the layers as a loop; see `run_blocks`
    implementation: str | Flash = "xla"  # see `attention.attend`

    def setup(self):
        spec = self.spec
        blip2 = spec.form == "blip2"
        self.patch_embed = PatchEmbed(spec.patch, spec.width, use_bias=blip2, dtype=self.dtype)
        self.cls = self.param("cls", kernel_init, (spec.width,))
        tokens = 1 + (spec.image_size // spec.patch) ** 2
        self.position = self.param("position", kernel_init, (tokens, spec.width))
        if not blip2:
            self.pre_norm = layer_norm(spec.epsilon, self.dtype)
        self.blocks = block_stack(
            spec.layers,
            self.remat,
            width=spec.width,
            heads=spec.heads,
            mlp_width=spec.mlp_width,
            activation=spec.activation,
            epsilon=spec.epsilon,
            norm_first=True,
            dropout=spec.dropout,
            dtype=self.dtype,
            implementation=self.implementation,
        )
        self.post_norm = layer_norm(spec.epsilon, self.dtype)

    def __call__(self, pixels: Array, deterministic: bool = True) -> VitOutput:
        """Encode images.

        Args:
          pixels: normalised as the checkpoint needs, [B, image_size, image_size, 3].
          deterministic: False turns dropout on (needs the rng 'dropout').

        Raises:
          ValueError: the images do not have the size that the position embeddings are for.
        """
        size = self.spec.image_size
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"pixels {pixels.shape} are not [B, {size}, {size}, 3]")
        x = self.patch_embed(pixels)
        cls = jnp.broadcast_to(self.cls.astype(self.dtype), (x.shape[0], 1, self.spec.width))
        x = jnp.concatenate([cls, x], axis=1) + self.position.astype(self.dtype)
        if self.spec.form == "clip":
            x = self.pre_norm(x)
        states = (x, *run_blocks(self.blocks, x, None, deterministic, self.scan))
        x = states[-1]
        if self.spec.form == "blip2":
            x = self.post_norm(x)
        # As in `transformers`, BLIP-2's CLS is normalised twice.
        return VitOutput(x, self.post_norm(x[:, 0]), states)
