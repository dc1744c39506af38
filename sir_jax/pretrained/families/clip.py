"""CLIP vision checkpoints as `transformers.CLIPVisionModel` and `CLIPModel` save them."""

import numpy as np

from sir_jax.errors import UserError
from sir_jax.models import VitSpec
from sir_jax.pretrained.processor import require, square
from sir_jax.pretrained.rules import CONV2D, Rule, pair

_LAYER = "encoder.layers.{n}"
_BLOCK = "layers_{n:02d}"

RULES: list[Rule] = [
    Rule("embeddings.position_ids", None),  # a buffer in old releases
    Rule("embeddings.class_embedding", "cls"),
    Rule("embeddings.patch_embedding.weight", "patch_embed/kernel", CONV2D),
    Rule("embeddings.position_embedding.weight", "position"),
    *pair("pre_layrnorm", "pre_norm", norm=True),  # spelt so in the released files
    *pair(f"{_LAYER}.layer_norm1", f"{_BLOCK}/attention_norm", norm=True),
    *pair(f"{_LAYER}.self_attn.q_proj", f"{_BLOCK}/attention/query"),
    *pair(f"{_LAYER}.self_attn.k_proj", f"{_BLOCK}/attention/key"),
    *pair(f"{_LAYER}.self_attn.v_proj", f"{_BLOCK}/attention/value"),
    *pair(f"{_LAYER}.self_attn.out_proj", f"{_BLOCK}/attention/out"),
    *pair(f"{_LAYER}.layer_norm2", f"{_BLOCK}/mlp_norm", norm=True),
    *pair(f"{_LAYER}.mlp.fc1", f"{_BLOCK}/mlp/up"),
    *pair(f"{_LAYER}.mlp.fc2", f"{_BLOCK}/mlp/down"),
    *pair("post_layernorm", "post_norm", norm=True),
    # The rest of a whole CLIP: text encoder and heads.
    Rule("text_model.{any}", None),
    Rule("text_projection.weight", None),
    Rule("visual_projection.weight", None),
    Rule("logit_scale", None),
]

PREFIXES = ("vision_model.",)

# The class of `transformers` that runs the encoder.
CLASS = "CLIPVisionModel"
# What the part for this encoder may be called in `processor_config.json`.
PROCESSOR = ("image_processor",)

# The defaults of `CLIPVisionConfig`, which a config may leave out.
_DEFAULTS = dict(
    image_size=224,
    patch_size=32,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    attention_dropout=0.0,
    num_channels=3,
)

# The defaults of `CLIPImageProcessor`. Files have other keys, too, which change no pixel.
_PROCESSOR = dict(
    do_resize=True,
    do_center_crop=True,
    do_rescale=True,
    do_normalize=True,
    resample=3,  # bicubic
    rescale_factor=1 / 255,
    size=224,
    crop_size=224,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
)
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "resample", "rescale_factor")
_PROCESSOR_TYPES = (
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
    "CLIPFeatureExtractor",
)


def spec_from_config(config: dict) -> VitSpec:
    """Read the encoder's shape from a `CLIPVisionConfig`, or a `CLIPConfig` that holds one.

    Raises:
      UserError: the config is of CLIP's text encoder, or of images without three channels.
    """
    architectures = config.get("architectures") or []
    if any(name.startswith("CLIPText") for name in architectures):
        raise UserError(f"config.json has architectures={architectures}: CLIP's text encoder alone")
    if "vision_config" in config:
        # Old releases have both; fields of the second override those of the first.
        config = (config["vision_config"] or {}) | (config.get("vision_config_dict") or {})
    config = _DEFAULTS | config
    if config["num_channels"] != 3:
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
        dropout=config["attention_dropout"],
    )


def config_from_spec(spec: VitSpec) -> dict:
    """Write the encoder's shape as a `CLIPVisionConfig`."""
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
    """Return the tensors that `transformers` needs and this port does not have: none."""
    del spec
    return {}


def preprocessing(preprocessor: dict) -> dict:
    """Read `image_size`, `image_mean`, `image_std` and `image_fit` from a `CLIPImageProcessor`.

    Args:
      preprocessor: fields of `preprocessor_config.json`, which may leave out defaults and use old
        spellings.

    Raises:
      UserError: the processor or one of its steps is not supported by the data pipeline.
    """
    names = (preprocessor.get(f"{x}_type") for x in ("image_processor", "feature_extractor"))
    name = next(filter(None, names), _PROCESSOR_TYPES[0])
    if name not in _PROCESSOR_TYPES:
        raise UserError(
            f"preprocessor_config.json is of {name}; CLIP is read with CLIPImageProcessor"
        )
    fields = _PROCESSOR | preprocessor
    require(fields, {step: _PROCESSOR[step] for step in _STEPS})
    size, crop = fields["size"], square(fields["crop_size"], "crop_size")
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    if short != crop:
        raise UserError(
            f"preprocessor_config.json has size={size} and crop_size={fields['crop_size']}; only a "
            "short side as long as the crop is ported"
        )
    return dict(
        image_size=crop,
        image_mean=tuple(fields["image_mean"]),
        image_std=tuple(fields["image_std"]),
        image_fit="crop",
    )
