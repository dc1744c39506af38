"""Flax modules, the only room with `flax.linen`: outside, a model is `apply` and pytrees."""

import jax
import jax.numpy as jnp

from sir_jax.config.specs import (
    HUBERT_VARIANTS,
    VIT_VARIANTS,
    Blip2Spec,
    FusionSpec,
    HeadSpec,
    HubertSpec,
    QFormerSpec,
    VitSpec,
    fusion_fields,
    hubert_fields,
    qformer_fields,
    vit_fields,
)
from sir_jax.models.fusion import cross_attention
from sir_jax.models.hubert import Hubert
from sir_jax.models.qformer import Blip2
from sir_jax.models.speech_image import Encoded, SpeechImageModel
from sir_jax.models.vit import Vit

__all__ = [
    "Blip2Spec",
    "Encoded",
    "FusionSpec",
    "HUBERT_VARIANTS",
    "HeadSpec",
    "HubertSpec",
    "QFormerSpec",
    "SpeechImageModel",
    "VIT_VARIANTS",
    "VitSpec",
    "attention_maps",
    "build_encoder",
    "build_model",
    "fusion_fields",
    "hubert_fields",
    "init_params",
    "qformer_fields",
    "vit_fields",
]


def build_encoder(
    spec: HubertSpec | VitSpec | Blip2Spec,
    dtype: jnp.dtype = jnp.float32,
    attention: str = "xla",
) -> Hubert | Vit | Blip2:
    """Build the encoder alone whose shape a checkpoint has.

    Args:
      spec: of a checkpoint, as `sir_jax.pretrained.load` returns it.
      dtype: of the computation.
      attention: who computes it, of `attention.IMPLEMENTATIONS`.
    """
    module = {HubertSpec: Hubert, VitSpec: Vit, Blip2Spec: Blip2}[type(spec)]
    return module(spec, dtype=dtype, implementation=attention)


def build_model(cfg, tasks: tuple[str, ...] = ()) -> SpeechImageModel:
    """Build the joint model from `config.model`.

    Args:
      cfg: has `speech`, `image`, `head` and `fusion` (fields of their specs), `image_head` ('cls',
        or 'qformer' with the fields of its spec in `qformer`), `embed_width`, `init_temperature`,
        `remat`, `dtype` ('float32' or 'bfloat16'), `scan` and `attention`.
      tasks: what the fusion encoder is for, of `fusion.TASKS`; none, and there is none.

    Returns:
      A hashable module, static under `jax.jit`.
    """
    return SpeechImageModel(
        speech_spec=HubertSpec(**cfg.speech),
        image_spec=VitSpec(**cfg.image),
        head_spec=HeadSpec(**cfg.head),
        qformer_spec=QFormerSpec(**cfg.qformer) if cfg.image_head == "qformer" else None,
        fusion_spec=FusionSpec(**cfg.fusion) if tasks else FusionSpec(),
        tasks=tuple(tasks),
        embed_width=cfg.embed_width,
        init_temperature=cfg.init_temperature,
        remat=cfg.remat,
        dtype=jnp.dtype(cfg.dtype),
        # Configs of runs from before they existed have no such fields.
        scan=bool(cfg.get("scan", False)),
        attention=cfg.get("attention", "xla"),
    )


def init_params(model: SpeechImageModel, key: jax.Array) -> dict:
    """Create the float32 parameters; call it under `jax.jit` with `out_shardings` to shard them."""
    size = model.image_spec.image_size
    wave = jnp.zeros((1, model.speech_spec.min_samples), jnp.float32)
    lengths = jnp.full((1,), wave.shape[1], jnp.int32)
    return model.init(key, wave, lengths, jnp.zeros((1, size, size, 3), jnp.float32))["params"]


def attention_maps(
    model: SpeechImageModel, params: dict, speech: Encoded, image: Encoded
) -> jax.Array:
    """Return where the fusion encoder looks when it matches a pair.

    Args:
      model: with the task 'match', or any other.
      params: its parameters.
      speech: from `encode_speech`.
      image: from `encode_image`.

    Returns:
      float32 [layers, B, H, T, S]: T tokens of the modality that `fusion_spec.query` names, S of
      the other one; over the valid ones of these the weights of a token sum to 1.
    """
    _, state = model.apply(
        {"params": params}, speech, image, method="fuse", mutable=["intermediates"]
    )
    return cross_attention(state["intermediates"]["fusion"])
