"""The joint model: two encoders, a speech head and projections into one embedding space."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from sir_jax.models.hubert import Hubert, HubertSpec
from sir_jax.models.layers import Array, block_stack, dense, kernel_init, layer_norm
from sir_jax.models.qformer import QFormer, QFormerSpec
from sir_jax.models.vit import Vit, VitSpec


class Encoded(NamedTuple):
    """One modality's features."""

    tokens: Array  # [B, 1 + T, D_s] or [B, 1 + P, D_i], token 0 is CLS; or a Q-Former's [B, Q, D]
    mask: Array  # True where a token is valid
    embed: Array  # float32, unit norm, [B, E]


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """The speech head: SpeechCLIP's parallel branch (arXiv 2210.00705) unless changed."""

    layers: int = 1
    heads: int = 8
    mlp_width: int = 3072
    weigh_layers: bool = False  # learnt softmax weighting of all hidden states
    dropout: float = 0.1


class SpeechHead(nn.Module):
    """A learnt CLS token and transformer layers over the frames."""

    spec: HeadSpec
    width: int
    states: int
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        spec = self.spec
        if spec.weigh_layers:
            self.layer_weights = self.param("layer_weights", nn.initializers.zeros, (self.states,))
        self.cls = self.param("cls", kernel_init, (self.width,))
        self.blocks = block_stack(
            spec.layers, self.remat, width=self.width, heads=spec.heads, mlp_width=spec.mlp_width,
            activation="gelu", epsilon=1e-5, norm_first=False, dropout=spec.dropout,
            dtype=self.dtype,
        )  # fmt: skip
        self.norm = layer_norm(1e-5, self.dtype)

    def __call__(self, encoded, deterministic: bool) -> tuple[Array, Array]:
        """Map a `HubertOutput` to tokens [B, 1 + T, D] and mask [B, 1 + T]."""
        x = encoded.tokens
        if self.spec.weigh_layers:
            weights = jax.nn.softmax(self.layer_weights)
            x = jnp.einsum("lbtd,l->btd", jnp.stack(encoded.states), weights.astype(x.dtype))
        b = x.shape[0]
        cls = jnp.broadcast_to(self.cls.astype(x.dtype), (b, 1, self.width))
        x = jnp.concatenate([cls, x], axis=1)
        mask = jnp.concatenate([jnp.ones((b, 1), bool), encoded.mask], axis=1)
        for block in self.blocks:
            x = block(x, mask, deterministic)
        return self.norm(x), mask


def unit_norm(x: Array) -> Array:
    """Scale the last axis to unit length in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-12))


class SpeechImageModel(nn.Module):
    """Encode speech and images into one space.

    The names of the sub-modules are the checkpoint's public schema.
    """

    speech_spec: HubertSpec
    image_spec: VitSpec
    head_spec: HeadSpec
    qformer_spec: QFormerSpec | None = None
    embed_width: int = 256
    init_temperature: float = 0.07
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        qformer = self.qformer_spec
        if qformer and qformer.projection != self.embed_width:
            raise ValueError(
                f"the Q-Former's projection {qformer.projection} is not embed_width "
                f"{self.embed_width}"
            )
        super().__post_init__()

    def setup(self):
        self.speech = Hubert(self.speech_spec, self.remat, self.dtype)
        self.image = Vit(self.image_spec, self.remat, self.dtype)
        self.speech_head = SpeechHead(
            self.head_spec, self.speech_spec.width, 1 + self.speech_spec.layers, self.remat,
            self.dtype,
        )  # fmt: skip
        self.speech_projection = dense(self.embed_width, self.dtype, use_bias=False)
        if self.qformer_spec:
            self.image_head = QFormer(self.qformer_spec, self.remat, self.dtype)
        else:
            self.image_projection = dense(self.embed_width, self.dtype, use_bias=False)
        self.temperature = self.param(
            "temperature", nn.initializers.constant(self.init_temperature), ()
        )

    def encode_speech(self, wave: Array, lengths: Array, deterministic: bool = True) -> Encoded:
        """Encode wave [B, N] with valid lengths [B]; a clip's result is the same in any batch."""
        tokens, mask = self.speech_head(self.speech(wave, lengths, deterministic), deterministic)
        return Encoded(tokens, mask, unit_norm(self.speech_projection(tokens[:, 0])))

    def encode_image(self, pixels: Array, deterministic: bool = True) -> Encoded:
        """Encode pixels [B, h, w, 3].

        A Q-Former's embedding is the mean of its projected queries, because an index holds one
        vector an image; BLIP-2 itself takes the query most similar to each text.
        """
        out = self.image(pixels, deterministic)
        if self.qformer_spec:
            head = self.image_head(out.tokens, deterministic)
            tokens, embed = head.tokens, head.projected.mean(axis=1)
        else:
            tokens, embed = out.tokens, self.image_projection(out.pooled)
        return Encoded(tokens, jnp.ones(tokens.shape[:2], bool), unit_norm(embed))

    def __call__(
        self, wave: Array, lengths: Array, pixels: Array, deterministic: bool = True
    ) -> tuple[Encoded, Encoded, Array]:
        """Encode both modalities: (speech, image, temperature)."""
        speech = self.encode_speech(wave, lengths, deterministic)
        return speech, self.encode_image(pixels, deterministic), self.temperature
