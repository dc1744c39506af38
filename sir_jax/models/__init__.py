"""Flax modules. No other room imports `flax.linen`: elsewhere a model is `apply` and pytrees."""

import dataclasses
from collections.abc import Container

import jax
import jax.numpy as jnp

from sir_jax.config.specs import (
    HUBERT_VARIANTS,
    VIT_VARIANTS,
    Blip2Spec,
    FusionSpec,
    HeadSpec,
    HubertSpec,
    MatchSpec,
    QFormerSpec,
    VitSpec,
    fusion_fields,
    hubert_fields,
    qformer_fields,
    vit_fields,
)
from sir_jax.models.attention import Flash
from sir_jax.models.fusion import cross_attention
from sir_jax.models.hubert import Hubert
from sir_jax.models.qformer import Blip2
from sir_jax.models.speech_image import Encoded, SpeechImageModel
from sir_jax.models.vit import Vit

__all__ = [
    "Blip2Spec",
    "Encoded",
    "Flash",
    "FusionSpec",
    "HUBERT_VARIANTS",
    "HeadSpec",
    "HubertSpec",
    "MatchSpec",
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
    "tasks_of_params",
    "vit_fields",
]


def build_encoder(
    spec: HubertSpec | VitSpec | Blip2Spec,
    dtype: jnp.dtype = jnp.float32,
    attention: str = "xla",
) -> Hubert | Vit | Blip2:
    """Build one encoder.

    Args:
      spec: the encoder's shape, for example from `sir_jax.pretrained.load`.
      dtype: dtype of the computation; parameters are float32.
      attention: one of `config.specs.IMPLEMENTATIONS`.

    Returns:
      A module whose parameters have the paths of a loaded checkpoint.

    Example:
      >>> spec = VitSpec(image_size=16, patch=8, width=8, layers=1, heads=2, mlp_width=16)
      >>> encoder, pixels = build_encoder(spec), jnp.zeros((1, 16, 16, 3))
      >>> output = jax.eval_shape(encoder.init_with_output, jax.random.key(0), pixels)[0]
      >>> print(output.tokens.shape)
      (1, 5, 8)
    """
    module = {HubertSpec: Hubert, VitSpec: Vit, Blip2Spec: Blip2}[type(spec)]
    return module(spec, dtype=dtype, implementation=attention)


# Width of the layer of `model.image_head=mlp`.
IMAGE_HIDDEN = 1_024


def build_model(cfg, tasks: tuple[str, ...] = (), flash: Flash | None = None) -> SpeechImageModel:
    """Build the joint model from `config.model`.

    Args:
      cfg: has `speech`, `image`, `head`, `fusion` and `match` (the fields of their specs),
        `image_head` ('cls', 'mlp', 'pool', or 'qformer' with the fields of its spec in `qformer`),
        `embed_width`, `init_temperature`, `remat`, `dtype` ('float32' or 'bfloat16'), `scan` and
        `attention`.
      tasks: from `fusion.TASKS`. What has no `SpeechImageModel.fused_tasks` has no fusion encoder.
      flash: the program's devices where they are TPUs; elsewhere `cfg.attention` 'flash' and 'auto'
        are 'xla'.

    Returns:
      A hashable module: it can be a static argument of `jax.jit`.
    """
    attention = cfg.attention
    if attention in ("flash", "auto"):
        always = attention == "flash"
        attention = dataclasses.replace(flash, always=always) if flash else "xla"
    return SpeechImageModel(
        speech_spec=HubertSpec(**cfg.speech),
        image_spec=VitSpec(**cfg.image),
        head_spec=HeadSpec(**cfg.head),
        image_hidden=IMAGE_HIDDEN if cfg.image_head == "mlp" else 0,
        image_pools=cfg.image_head == "pool",
        qformer_spec=QFormerSpec(**cfg.qformer) if cfg.image_head == "qformer" else None,
        fusion_spec=FusionSpec(**cfg.fusion) if tasks else FusionSpec(),
        match_spec=MatchSpec(**cfg.match),
        tasks=tuple(tasks),
        embed_width=cfg.embed_width,
        init_temperature=cfg.init_temperature,
        remat=cfg.remat,
        dtype=jnp.dtype(cfg.dtype),
        scan=cfg.scan,
        attention=attention,
    )


def tasks_of_params(params: Container[str]) -> tuple[str, ...]:
    """Return the tasks that found parameters serve at inference: 'match', 'pool'.

    Args:
      params: the names of sub-modules, or a tree by them.
    """
    heads = {"match": ("match_head", "late"), "pool": ("pool_speech",)}
    return tuple(task for task, names in heads.items() if any(name in params for name in names))


def init_params(model: SpeechImageModel, key: jax.Array) -> dict:
    """Create float32 parameters; under `jax.jit` with `out_shardings` they are created sharded.

    Args:
      model: from `build_model`.
      key: random key.

    Returns:
      A nested dict of arrays.
    """
    size = model.image_spec.image_size
    wave = jnp.zeros((1, model.speech_spec.min_samples), jnp.float32)
    lengths = jnp.full((1,), wave.shape[1], jnp.int32)
    return model.init(key, wave, lengths, jnp.zeros((1, size, size, 3), jnp.float32))["params"]


def attention_maps(
    model: SpeechImageModel, params: dict, speech: Encoded, image: Encoded
) -> jax.Array:
    """Return the cross-attention weights of the fusion encoder over pairs.

    Args:
      model: from `build_model`, with a fusion encoder.
      params: the model's parameters.
      speech: from `encode_speech`.
      image: from `encode_image`.

    Returns:
      float32 [layers, B, H, T, S]: T tokens of the modality that `fusion_spec.query` names attend
      to S tokens of the other one. The weights of a token sum to 1 over the valid ones of these.
    """
    _, state = model.apply(
        {"params": params}, speech, image, method="fuse", mutable=["intermediates"]
    )
    return cross_attention(state["intermediates"]["fusion"])
