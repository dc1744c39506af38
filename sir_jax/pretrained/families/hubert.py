"""HuBERT checkpoints as `transformers.HubertModel` saves them."""

import numpy as np

from sir_jax.errors import UserError
from sir_jax.models import HubertSpec
from sir_jax.pretrained.processor import require
from sir_jax.pretrained.rules import CONV1D, Rule, Transform, pair

_GAIN = Transform(lambda x: x.reshape(-1, 1, 1), lambda x: x.reshape(1, 1, -1))  # [1, 1, K]
_LAYER = "encoder.layers.{n}"
_BLOCK = "layers_{n:02d}"


RULES: list[Rule] = [
    Rule("masked_spec_embed", None),  # used in masked pre-training only
    Rule("feature_extractor.conv_layers.{n}.conv.weight", "frontend/conv_{n}/kernel", CONV1D),
    Rule("feature_extractor.conv_layers.{n}.conv.bias", "frontend/conv_{n}/bias"),
    *pair("feature_extractor.conv_layers.{n}.layer_norm", "frontend/conv_{n}/norm", norm=True),
    *pair("feature_projection.layer_norm", "feature_norm", norm=True),
    *pair("feature_projection.projection", "feature_projection"),
    Rule(
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0", "positional_conv/g", _GAIN
    ),
    Rule(
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1", "positional_conv/v", CONV1D
    ),
    Rule("encoder.pos_conv_embed.conv.weight_g", "positional_conv/g", _GAIN),
    Rule("encoder.pos_conv_embed.conv.weight_v", "positional_conv/v", CONV1D),
    Rule("encoder.pos_conv_embed.conv.bias", "positional_conv/bias"),
    *pair("encoder.layer_norm", "norm", norm=True),
    *pair(f"{_LAYER}.attention.q_proj", f"{_BLOCK}/attention/query"),
    *pair(f"{_LAYER}.attention.k_proj", f"{_BLOCK}/attention/key"),
    *pair(f"{_LAYER}.attention.v_proj", f"{_BLOCK}/attention/value"),
    *pair(f"{_LAYER}.attention.out_proj", f"{_BLOCK}/attention/out"),
    *pair(f"{_LAYER}.layer_norm", f"{_BLOCK}/attention_norm", norm=True),
    *pair(f"{_LAYER}.feed_forward.intermediate_dense", f"{_BLOCK}/mlp/up"),
    *pair(f"{_LAYER}.feed_forward.output_dense", f"{_BLOCK}/mlp/down"),
    *pair(f"{_LAYER}.final_layer_norm", f"{_BLOCK}/mlp_norm", norm=True),
    # Heads of HubertForCTC and HubertForSequenceClassification.
    Rule("lm_head.{any}", None),
    Rule("projector.{any}", None),
    Rule("classifier.{any}", None),
    Rule("layer_weights", None),
]

PREFIXES = ("hubert.",)

# The class of `transformers` that runs the encoder.
CLASS = "HubertModel"
# What the part for this encoder may be called in `processor_config.json`.
PROCESSOR = ("feature_extractor", "audio_processor")

# The defaults of `HubertConfig`, which a config may leave out.
_DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    conv_dim=(512,) * 7,
    conv_kernel=(10, 3, 3, 3, 3, 2, 2),
    conv_stride=(5, 2, 2, 2, 2, 2, 2),
    conv_bias=False,
    feat_extract_norm="group",
    feat_extract_activation="gelu",
    num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
    conv_pos_batch_norm=False,
    feat_proj_layer_norm=True,
    do_stable_layer_norm=False,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    hidden_dropout=0.1,
)


def spec_from_config(config: dict) -> HubertSpec:
    """Read the encoder's shape from a `HubertConfig`, which may leave out defaults.

    Raises:
      UserError: a setting is not supported; no released HuBERT has such a setting.
    """
    config = _DEFAULTS | config
    for field, supported in (("conv_pos_batch_norm", False), ("feat_proj_layer_norm", True)):
        if config[field] != supported:
            raise UserError(f"config.json has {field}={config[field]}; only {supported} is ported")
    return HubertSpec(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        conv_width=tuple(config["conv_dim"]),
        conv_kernel=tuple(config["conv_kernel"]),
        conv_stride=tuple(config["conv_stride"]),
        conv_bias=config["conv_bias"],
        conv_norm=config["feat_extract_norm"],
        conv_activation=config["feat_extract_activation"],
        pos_kernel=config["num_conv_pos_embeddings"],
        pos_groups=config["num_conv_pos_embedding_groups"],
        norm_first=config["do_stable_layer_norm"],
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
        dropout=config["hidden_dropout"],
    )


def config_from_spec(spec: HubertSpec) -> dict:
    """Write the encoder's shape as a `HubertConfig`."""
    return dict(
        model_type="hubert",
        architectures=["HubertModel"],
        hidden_size=spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.mlp_width,
        conv_dim=list(spec.conv_width),
        conv_kernel=list(spec.conv_kernel),
        conv_stride=list(spec.conv_stride),
        num_feat_extract_layers=len(spec.conv_width),
        conv_bias=spec.conv_bias,
        feat_extract_norm=spec.conv_norm,
        feat_extract_activation=spec.conv_activation,
        num_conv_pos_embeddings=spec.pos_kernel,
        num_conv_pos_embedding_groups=spec.pos_groups,
        do_stable_layer_norm=spec.norm_first,
        hidden_act=spec.activation,
        layer_norm_eps=spec.epsilon,
        hidden_dropout=spec.dropout,
        attention_dropout=spec.dropout,
        activation_dropout=0.0,
        feat_proj_dropout=spec.dropout,
    )


def extra_tensors(spec: HubertSpec) -> dict[str, np.ndarray]:
    """Return the tensors that `transformers` needs and this port does not have."""
    return {"masked_spec_embed": np.zeros((spec.width,), np.float32)}


def preprocessing(preprocessor: dict) -> dict:
    """Read `normalize_wave` from a `Wav2Vec2FeatureExtractor`.

    Args:
      preprocessor: fields of `preprocessor_config.json`, which may leave out defaults.

    Raises:
      UserError: the processor is another one, or is not for one channel at 16 kHz.
    """
    defaults = dict(
        feature_extractor_type="Wav2Vec2FeatureExtractor", feature_size=1, sampling_rate=16_000
    )
    fields = defaults | preprocessor
    require(fields, defaults)
    return dict(normalize_wave=bool(fields.get("do_normalize", True)))
