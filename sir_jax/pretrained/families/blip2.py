"""The image side of BLIP-2 checkpoints, as saved by any BLIP-2 class of `transformers`."""

import numpy as np

from sir_jax.config.specs import Blip2Spec, QFormerSpec
from sir_jax.errors import UserError
from sir_jax.pretrained.families import blip2_vision
from sir_jax.pretrained.families.blip2_vision import PROCESSOR, preprocessing
from sir_jax.pretrained.rules import Rule, pair

__all__ = [
    "CLASS",
    "PREFIXES",
    "PROCESSOR",
    "RULES",
    "config_from_spec",
    "extra_tensors",
    "preprocessing",
    "spec_from_config",
]

_LAYER = "qformer.encoder.layer.{n}"
_BLOCK = "qformer/layers_{n:02d}"


def _below(rule: Rule) -> Rule:
    """Return a rule of the image encoder with the names that the whole model gives it."""
    path = rule.path
    path = tuple(f"vision/{p}" for p in path) if isinstance(path, tuple) else f"vision/{path}"
    return rule._replace(name=f"vision_model.{rule.name}", path=path)


def _attention(name: str, path: str) -> list[Rule]:
    """Return the rules of an attention with BERT's names, and of the norm after it."""
    return [
        *pair(f"{name}.attention.query", f"{path}/query"),
        *pair(f"{name}.attention.key", f"{path}/key"),
        *pair(f"{name}.attention.value", f"{path}/value"),
        *pair(f"{name}.output.dense", f"{path}/out"),
        *pair(f"{name}.output.LayerNorm", f"{path}_norm", norm=True),
    ]


RULES: list[Rule] = [
    *map(_below, blip2_vision.RULES),
    Rule("query_tokens", "qformer/queries", blip2_vision.ROWS),
    *pair("qformer.layernorm", "qformer/norm", norm=True),
    *_attention(f"{_LAYER}.attention", f"{_BLOCK}/attention"),
    *_attention(f"{_LAYER}.crossattention", f"{_BLOCK}/cross_attention"),
    *pair(f"{_LAYER}.intermediate_query.dense", f"{_BLOCK}/mlp/up"),
    *pair(f"{_LAYER}.output_query.dense", f"{_BLOCK}/mlp/down"),
    *pair(f"{_LAYER}.output_query.LayerNorm", f"{_BLOCK}/mlp_norm", norm=True),
    *pair("vision_projection", "qformer/projection"),
    # Text: the language model, and the Q-Former's text side.
    Rule("language_model.{any}", None),
    Rule("language_projection.{any}", None),
    Rule("embeddings.{any}", None),
    Rule(f"{_LAYER}.intermediate.dense.{{any}}", None),
    Rule(f"{_LAYER}.output.{{any}}", None),
    Rule("text_projection.{any}", None),
    Rule("itm_head.{any}", None),
    Rule("temp", None),
]

# The prefix that every BLIP-2 class declares for its base model; no released file has it.
PREFIXES = ("blip.",)

# The one class of `transformers` with the image side alone; what else the file has is left out.
CLASS = "Blip2VisionModelWithProjection"

# Released configs have only fields that differ from the defaults of `Blip2QFormerConfig` ...
_QFORMER_DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    layer_norm_eps=1e-12,
    cross_attention_frequency=2,
)
# ... and of `Blip2Config`.
_DEFAULTS = dict(num_query_tokens=32, image_text_hidden_size=256)

# Whether the class has a projection. Its width does not tell: config.json states it in any case.
_HAS_PROJECTION = {
    "Blip2ForImageTextRetrieval": True,
    "Blip2VisionModelWithProjection": True,
    "Blip2Model": False,
    "Blip2ForConditionalGeneration": False,
}


def spec_from_config(config: dict) -> Blip2Spec:
    """Read the image side's shape from a `Blip2Config`, which may leave out defaults.

    Raises:
      UserError: the class has no image side, or a setting is not supported; no released BLIP-2
        has such a setting.
    """
    architecture = (config.get("architectures") or [None])[0]
    if architecture not in _HAS_PROJECTION:
        raise UserError(
            f"config.json has architectures={config.get('architectures')}; "
            f"name one of {', '.join(_HAS_PROJECTION)}"
        )
    config = _DEFAULTS | config
    qformer = _QFORMER_DEFAULTS | (config.get("qformer_config") or {})
    return Blip2Spec(
        vision=blip2_vision.spec_from_config(config.get("vision_config") or {}),
        qformer=QFormerSpec(
            queries=config["num_query_tokens"],
            width=qformer["hidden_size"],
            layers=qformer["num_hidden_layers"],
            heads=qformer["num_attention_heads"],
            mlp_width=qformer["intermediate_size"],
            cross_every=qformer["cross_attention_frequency"],
            projection=config["image_text_hidden_size"] if _HAS_PROJECTION[architecture] else 0,
            activation=blip2_vision.activation(qformer["hidden_act"]),
            epsilon=qformer["layer_norm_eps"],
            dropout=qformer["hidden_dropout_prob"],
        ),
    )


def config_from_spec(spec: Blip2Spec) -> dict:
    """Write the image side's shape as a `Blip2Config`.

    Without a projection the class is `Blip2Model`, the only one of `transformers` without. It will
    create a random language model, because the file has none.
    """
    qformer = spec.qformer
    vision = blip2_vision.config_from_spec(spec.vision)
    del vision["architectures"]  # this is a part of a checkpoint
    return dict(
        model_type="blip-2",
        architectures=["Blip2VisionModelWithProjection" if qformer.projection else "Blip2Model"],
        num_query_tokens=qformer.queries,
        # `Blip2Model` ignores it.
        image_text_hidden_size=qformer.projection or _DEFAULTS["image_text_hidden_size"],
        vision_config=vision,
        qformer_config=dict(
            model_type="blip_2_qformer",
            hidden_size=qformer.width,
            num_hidden_layers=qformer.layers,
            num_attention_heads=qformer.heads,
            intermediate_size=qformer.mlp_width,
            hidden_act=qformer.activation,
            hidden_dropout_prob=qformer.dropout,
            attention_probs_dropout_prob=qformer.dropout,
            layer_norm_eps=qformer.epsilon,
            cross_attention_frequency=qformer.cross_every,
            encoder_hidden_size=spec.vision.width,
            use_qformer_text_input=False,
        ),
    )


def extra_tensors(spec: Blip2Spec) -> dict[str, np.ndarray]:
    """Return the tensors that `transformers` needs and this port does not have: none."""
    del spec
    return {}
