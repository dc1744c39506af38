"""BLIP-2's image encoder (EVA ViT-g/14) as `transformers.Blip2VisionModel` saves it."""

import numpy as np

from sir_jax.config.specs import VitSpec
from sir_jax.errors import UserError
from sir_jax.models.layers import ACTIVATIONS
from sir_jax.pretrained.rules import CONV2D, Rule, Transform, pair

_LAYER = "encoder.layers.{n}"
_BLOCK = "layers_{n:02d}"
_QKV = ("query", "key", "value")

_CLS = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1))
ROWS = Transform(lambda x: x.reshape(x.shape[1:]), lambda x: x[None])  # [1, N, D] <-> [N, D]
# [3 D, D] <-> three of [D, D]
_SPLIT_WEIGHT = Transform(
    lambda x: tuple(part.T for part in np.split(x, 3)),
    lambda q, k, v: np.concatenate([q.T, k.T, v.T]),
)
_SPLIT_BIAS = Transform(lambda x: tuple(np.split(x, 3)), lambda q, k, v: np.concatenate([q, k, v]))

RULES: list[Rule] = [
    Rule("embeddings.class_embedding", "cls", _CLS),
    Rule("embeddings.patch_embedding.weight", "patch_embed/kernel", CONV2D),
    Rule("embeddings.patch_embedding.bias", "patch_embed/bias"),
    Rule("embeddings.position_embedding", "position", ROWS),
    *pair(f"{_LAYER}.layer_norm1", f"{_BLOCK}/attention_norm", norm=True),
    Rule(
        f"{_LAYER}.self_attn.qkv.weight",
        tuple(f"{_BLOCK}/attention/{x}/kernel" for x in _QKV),
        _SPLIT_WEIGHT,
    ),
    Rule(
        f"{_LAYER}.self_attn.qkv.bias",
        tuple(f"{_BLOCK}/attention/{x}/bias" for x in _QKV),
        _SPLIT_BIAS,
    ),
    *pair(f"{_LAYER}.self_attn.projection", f"{_BLOCK}/attention/out"),
    *pair(f"{_LAYER}.layer_norm2", f"{_BLOCK}/mlp_norm", norm=True),
    *pair(f"{_LAYER}.mlp.fc1", f"{_BLOCK}/mlp/up"),
    *pair(f"{_LAYER}.mlp.fc2", f"{_BLOCK}/mlp/down"),
    *pair("post_layernorm", "post_norm", norm=True),
]

PREFIXES = ("vision_model.",)

# The class of `transformers` that runs the encoder.
CLASS = "Blip2VisionModel"
# What the part for this encoder may be called in `processor_config.json`.
PROCESSOR = ("image_processor",)

# Released configs have only fields that differ from these defaults of `Blip2VisionConfig`.
_DEFAULTS = dict(
    image_size=224,
    patch_size=14,
    hidden_size=1408,
    num_hidden_layers=39,
    num_attention_heads=16,
    intermediate_size=6144,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    attention_dropout=0.0,
    qkv_bias=True,
)

# The defaults of `BlipImageProcessor`.
_PREPROCESSOR = dict(
    image_processor_type="BlipImageProcessor",
    do_resize=True,
    do_center_crop=False,
    do_rescale=True,
    do_normalize=True,
    resample=3,  # bicubic
    rescale_factor=1 / 255,
    size=384,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
)
_PROCESSORS = ("BlipImageProcessor", "BlipImageProcessorFast", "BlipImageProcessorPil")


def spec_from_config(config: dict) -> VitSpec:
    """Read the encoder's shape from a `Blip2VisionConfig`, which may leave out defaults.

    Raises:
      UserError: a setting is not supported; no released BLIP-2 has such a setting.
    """
    config = _DEFAULTS | config
    if not config["qkv_bias"]:
        raise UserError("config.json has qkv_bias=false; only true is ported")
    return VitSpec(
        image_size=_square(config["image_size"], "config.json has image_size"),
        patch=_square(config["patch_size"], "config.json has patch_size"),
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        activation=activation(config["hidden_act"]),
        epsilon=config["layer_norm_eps"],
        dropout=config["attention_dropout"],
        form="blip2",
    )


def activation(name: str) -> str:
    """Return the name of a supported activation.

    Raises:
      UserError: the activation is not supported.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"config.json has hidden_act={name!r}; ported are {', '.join(ACTIVATIONS)}")
    return name


def _square(size: int | list | dict, field: str) -> int:
    """Return the side of a size given as a number, a pair, or a dict of height and width.

    Raises:
      UserError: the size is not square. The message begins with `field`.
    """
    sides = size
    if isinstance(size, int):
        sides = (size, size)
    elif isinstance(size, dict):
        sides = (size.get("height"), size.get("width"))
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int):
        raise UserError(f"{field}={size}; only a square, one number for both sides, is ported")
    return sides[0]


def config_from_spec(spec: VitSpec) -> dict:
    """Write the encoder's shape as a `Blip2VisionConfig`."""
    return dict(
        model_type="blip_2_vision_model",
        architectures=["Blip2VisionModel"],
        image_size=spec.image_size,
        patch_size=spec.patch,
        hidden_size=spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.mlp_width,
        hidden_act=spec.activation,
        layer_norm_eps=spec.epsilon,
        attention_dropout=spec.dropout,
        qkv_bias=True,
    )


def extra_tensors(spec: VitSpec) -> dict[str, np.ndarray]:
    """Return the tensors that `transformers` needs and this port does not have: none."""
    del spec
    return {}


def preprocessing(preprocessor: dict) -> dict:
    """Read `image_size`, `image_mean`, `image_std` and `image_fit` from a `BlipImageProcessor`.

    Args:
      preprocessor: fields of `preprocessor_config.json`, which may leave out defaults.

    Raises:
      UserError: the processor or one of its steps is not supported by the data pipeline.
    """
    fields = _PREPROCESSOR | preprocessor
    if fields["image_processor_type"] not in _PROCESSORS:
        raise UserError(
            f"preprocessor_config.json has image_processor_type={fields['image_processor_type']}; "
            "BLIP-2 is read with BlipImageProcessor"
        )
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "resample"):
        # null means false: files may list the steps of other processors as null.
        if (fields[step] or False) != _PREPROCESSOR[step]:
            raise UserError(
                f"preprocessor_config.json has {step}={fields[step]}; "
                f"only {_PREPROCESSOR[step]} is ported"
            )
    if abs(fields["rescale_factor"] * 255 - 1) > 1e-6:
        raise UserError(
            f"preprocessor_config.json has rescale_factor={fields['rescale_factor']}; "
            "only 1/255 is ported"
        )
    return dict(
        image_size=_square(fields["size"], "preprocessor_config.json has size"),
        image_mean=tuple(fields["image_mean"]),
        image_std=tuple(fields["image_std"]),
        image_fit="squash",
    )
