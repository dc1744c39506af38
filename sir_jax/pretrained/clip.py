"""CLIP vision checkpoints as `transformers.CLIPVisionModel` and `CLIPModel` save them."""

import numpy as np

from sir_jax.errors import UserError
from sir_jax.models import VitSpec
from sir_jax.pretrained.rules import CONV2D, Rule, pair

_LAYER = "encoder.layers.{n}"
_BLOCK = "layers_{n:02d}"

RULES: list[Rule] = [
    Rule("embeddings.position_ids", None),  # a buffer that old releases saved
    Rule("embeddings.class_embedding", "cls"),
    Rule("embeddings.patch_embedding.weight", "patch_embed/kernel", CONV2D),
    Rule("embeddings.position_embedding.weight", "position"),
    *pair("pre_layrnorm", "pre_norm", norm=True),  # the released files spell it so
    *pair(f"{_LAYER}.layer_norm1", f"{_BLOCK}/attention_norm", norm=True),
    *pair(f"{_LAYER}.self_attn.q_proj", f"{_BLOCK}/attention/query"),
    *pair(f"{_LAYER}.self_attn.k_proj", f"{_BLOCK}/attention/key"),
    *pair(f"{_LAYER}.self_attn.v_proj", f"{_BLOCK}/attention/value"),
    *pair(f"{_LAYER}.self_attn.out_proj", f"{_BLOCK}/attention/out"),
    *pair(f"{_LAYER}.layer_norm2", f"{_BLOCK}/mlp_norm", norm=True),
    *pair(f"{_LAYER}.mlp.fc1", f"{_BLOCK}/mlp/up"),
    *pair(f"{_LAYER}.mlp.fc2", f"{_BLOCK}/mlp/down"),
    *pair("post_layernorm", "post_norm", norm=True),
]

PREFIXES = ("vision_model.",)


def spec_from_config(config: dict) -> VitSpec:
    """Read the encoder's shape from `config.json` (`CLIPModel`'s has it under vision_config)."""
    config = config.get("vision_config", config)
    if config.get("num_channels", 3) != 3:
        raise UserError(f"config.json has num_channels={config['num_channels']}; only 3 is ported")
    return VitSpec(
        image_size=config["image_size"],
        patch=config["patch_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
        dropout=config.get("attention_dropout", 0.0),
    )


def config_from_spec(spec: VitSpec) -> dict:
    """Write the encoder's shape as `config.json` holds it."""
    return dict(
        model_type="clip_vision_model",
        architectures=["CLIPVisionModel"],
        image_size=spec.image_size,
        patch_size=spec.patch,
        hidden_size=spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.mlp_width,
        hidden_act=spec.activation,
        layer_norm_eps=spec.epsilon,
        attention_dropout=spec.dropout,
        num_channels=3,
    )


def extra_tensors(spec: VitSpec) -> dict[str, np.ndarray]:
    """Return the tensors that `transformers` expects and this port has no use for: none."""
    del spec
    return {}
