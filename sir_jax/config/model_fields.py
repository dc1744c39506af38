"""The rows of the table of fields that say what `config.model` is, and what it starts from."""

from typing import Any

from sir_jax.config.rules import Choice, Field, Flag, Real, Rule, Several, Text, Whole, rows
from sir_jax.config.specs import (
    ACTIVATIONS,
    CONV_NORMS,
    DTYPES,
    IMAGE_HEADS,
    IMPLEMENTATIONS,
    MATCHES,
    MODALITIES,
    REMAT,
    SPEECH_HEADS,
    TEMPERATURE_RANGE,
    VIT_FORMS,
    fusion_fields,
    head_fields,
    hubert_fields,
    match_fields,
    qformer_fields,
    vit_fields,
)

# Far beyond any published encoder, and small enough that a model of this size is described at once.
_WIDTH = Whole(1, 32_768)
_LAYERS = Whole(1, 128)
_HEADS = Whole(1, 1_024)
_MLP = Whole(1, 131_072)
_EPSILON = Real(0, 0.1, above=True)
_DROPOUT = Real(0, 1, below=True)
_CONVS = 16

# What the fields of every transformer are.
_TRANSFORMER: dict[str, tuple[Rule, str]] = {
    "width": (_WIDTH, "numbers in a token"),
    "layers": (_LAYERS, "transformer layers"),
    "heads": (_HEADS, "attention heads; divides the width"),
    "mlp_width": (_MLP, "hidden numbers of a layer's MLP"),
    "activation": (Choice(ACTIVATIONS), "activation of the MLP"),
    "epsilon": (_EPSILON, "number that layer norms add to a variance"),
    "dropout": (_DROPOUT, "probability that a value is set to 0 in training"),
}

_SPEECH: dict[str, tuple[Rule, str]] = _TRANSFORMER | {
    "conv_width": (
        Several(Whole(1, 16_384), "whole numbers", _CONVS),
        "channels of each convolution of the front end",
    ),
    "conv_kernel": (
        Several(Whole(1, 4_096), "whole numbers", _CONVS),
        "taps of each convolution of the front end",
    ),
    "conv_stride": (
        Several(Whole(1, 4_096), "whole numbers", _CONVS),
        "step of each convolution; their product is the samples from one frame to the next",
    ),
    "conv_bias": (Flag(), "whether these convolutions have a bias"),
    "conv_norm": (
        Choice(CONV_NORMS),
        "group: over time, after the first convolution only; layer: after each one",
    ),
    "conv_activation": (
        Choice(ACTIVATIONS),
        "activation of the front end and of the positional convolution",
    ),
    "pos_kernel": (Whole(1, 4_096), "taps of the positional convolution"),
    "pos_groups": (_WIDTH, "groups of the positional convolution; divides the width"),
    "norm_first": (Flag(), "whether layer norms come before attention and MLP, or after"),
}

_IMAGE: dict[str, tuple[Rule, str]] = _TRANSFORMER | {
    "image_size": (Whole(1, 4_096), "side of the square picture in pixels, as data.image_size"),
    "patch": (Whole(1, 1_024), "side of a patch in pixels; divides image_size"),
    "form": (
        Choice(VIT_FORMS),
        "clip: norm before the first layer, and of CLS at the end; blip2: of all tokens at the end",
    ),
}

_QFORMER: dict[str, tuple[Rule, str]] = _TRANSFORMER | {
    "queries": (Whole(1, 4_096), "learnt queries: the tokens that an image becomes"),
    "cross_every": (_LAYERS, "layers 0, n, 2n, .. read the image"),
    "projection": (
        Whole(0, 16_384),
        "width of the space shared with text; equals model.embed_width; 0: no projection",
    ),
}

_HEAD: dict[str, tuple[Rule, str]] = {
    "kind": (
        Choice(SPEECH_HEADS),
        "what embeds a clip: a CLS token among transformer layers, or convolutions, of which "
        "places along the clip are read",
    ),
    "layers": (_LAYERS, "layers of either kind"),
    "heads": (_HEADS, "attention heads of `transformer`; divides model.speech.width"),
    "mlp_width": (
        _MLP,
        "hidden numbers of an MLP of `transformer`; the default is 4 x model.speech.width",
    ),
    "weigh_layers": (Flag(), "learn a weight for each hidden state of HuBERT; false: the last one"),
    "dropout": _TRANSFORMER["dropout"],
    "taps": (Whole(1, 1_023), "frames that a convolution of `conv` reads; an odd number"),
    "places": (Whole(1, 1_024), "places along the clip that `conv` reads"),
    "hidden": (
        Whole(0, 131_072),
        "numbers of a layer that puts together what `conv` reads of normalised frames, so that 'a "
        "left of b' and 'b right of a' can be one; 0: none, and frames as they are",
    ),
}

_FUSION: dict[str, tuple[Rule, str]] = _TRANSFORMER | {
    "width": (_WIDTH, "numbers in a token; even"),
    "query": (
        Choice(MODALITIES),
        "modality whose CLS is asked whether a pair matches; it reads the other",
    ),
    "self_attention": (Flag(), "whether tokens also read those of their own modality"),
    "init_std": (
        Real(0, 10, above=True),
        "deviation of initial kernels; a narrow encoder learns sooner from 1 / sqrt(width)",
    ),
}

_MATCH: dict[str, tuple[Rule, str]] = {
    "kind": (
        Choice(MATCHES),
        "what matches a pair: the fusion encoder; pooled vectors, which an index holds; both; or "
        "late interaction, by which each frame finds its token of the picture",
    ),
    "queries": (Whole(1, 1_024), "learnt queries that pool a token stream"),
    "hidden": (_MLP, "hidden numbers of the MLP over what they read"),
    "width": (
        Whole(1, 16_384),
        "numbers in a pooled vector, beside those of the embedding; in a token, of `late`",
    ),
    "places": (Flag(), "whether each query of speech reads near a place along the clip of its own"),
    "frames": (
        Flag(),
        "whether queries of speech, or `late`, read the encoder's frames, not its head",
    ),
    "taps": (
        Whole(0, 1_023),
        "frames that a convolution reads before the queries of speech; an odd number, or 0: none",
    ),
}


def _spec(section: str, defaults: dict[str, Any], rows: dict) -> tuple[Field, ...]:
    """Return the rows of a part of the model, in its own order, with the defaults of its spec."""
    return tuple(
        Field(f"model.{section}.{name}", value, *rows[name]) for name, value in defaults.items()
    )


MODEL: tuple[Field, ...] = (
    *_spec("speech", hubert_fields("base"), _SPEECH),
    *_spec("image", vit_fields("B/32"), _IMAGE),
    Field(
        "model.image_head",
        "cls",
        Choice(IMAGE_HEADS),
        "what embeds a picture: its CLS token, that through a layer of 1,024 (for a frozen encoder "
        "that has not seen such pictures), learnt queries that read all its tokens (where things "
        "are), or BLIP-2's Q-Former over them",
    ),
    *_spec("qformer", qformer_fields(), _QFORMER),
    *_spec("head", head_fields("base"), _HEAD),
    *_spec("fusion", fusion_fields(), _FUSION),
    *_spec("match", match_fields(), _MATCH),
    Field("model.embed_width", 256, Whole(1, 16_384), "numbers in an embedding"),
    Field(
        "model.init_temperature",
        0.07,
        Real(*TEMPERATURE_RANGE),
        "first temperature of the contrastive loss; it is learnt, within the same range",
    ),
    Field(
        "model.remat",
        "none",
        Choice(REMAT),
        "what a layer keeps for its gradient: all; its input (full); input and products (dots)",
    ),
    Field("model.dtype", "float32", Choice(DTYPES), "type of the computation; losses are float32"),
    Field(
        "model.scan",
        False,
        Flag(),
        "run the encoders' layers as a loop: compiles sooner, copies their parameters",
        free=True,
    ),
    Field(
        "model.attention",
        "xla",
        Choice(IMPLEMENTATIONS),
        "XLA's; flash kernels: cudnn on NVIDIA GPUs, in bfloat16, flash on TPUs, auto by length",
        free=True,
    ),
)

_ENCODER = Text("a folder, a name of the hub whose files are in the local cache, or package:NAME")

INIT = rows(
    "init",
    ("speech", "", _ENCODER, "HuBERT to start from; empty: random"),
    ("image", "", _ENCODER, "ViT to start from, with its Q-Former where it has one; empty: random"),
    (
        "fusion",
        "",
        _ENCODER,
        "BERT whose last layers the fusion encoder takes; cross-attention stays random",
    ),
    (
        "model",
        "",
        Text("a model that ships, a folder of `sir-jax export`, or a workdir"),
        "a whole retriever to go on from, in place of the other three",
    ),
)
