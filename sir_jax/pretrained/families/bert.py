"""BERT checkpoints of `transformers`, whose last layers initialise the fusion encoder.

ALBEF (arXiv 2107.07651) takes the last 6 of the 12 layers of BERT base. Their cross-attention,
which BERT does not have, stays random. BERT is no family of `load`, because it encodes neither
speech nor images.
"""

import dataclasses
from collections.abc import Mapping

from sir_jax.errors import UserError
from sir_jax.pretrained.rules import Plan, Rule, Shape, make_plan, pair

_LAYER = "encoder.layer.{n}"
_BLOCK = "layers_{n:02d}"


def _norm(name: str, path: str) -> list[Rule]:
    """Return the rules of a norm; Google's release calls its parts gamma and beta."""
    return [
        *pair(name, path, norm=True),
        Rule(f"{name}.gamma", f"{path}/scale"),
        Rule(f"{name}.beta", f"{path}/bias"),
    ]


RULES: list[Rule] = [
    *pair(f"{_LAYER}.attention.self.query", f"{_BLOCK}/attention/query"),
    *pair(f"{_LAYER}.attention.self.key", f"{_BLOCK}/attention/key"),
    *pair(f"{_LAYER}.attention.self.value", f"{_BLOCK}/attention/value"),
    *pair(f"{_LAYER}.attention.output.dense", f"{_BLOCK}/attention/out"),
    *_norm(f"{_LAYER}.attention.output.LayerNorm", f"{_BLOCK}/attention_norm"),
    *pair(f"{_LAYER}.intermediate.dense", f"{_BLOCK}/mlp/up"),
    *pair(f"{_LAYER}.output.dense", f"{_BLOCK}/mlp/down"),
    *_norm(f"{_LAYER}.output.LayerNorm", f"{_BLOCK}/mlp_norm"),
    Rule("embeddings.{any}", None),
    Rule("pooler.{any}", None),
    # Heads for words and next sentences, for classes of sequences or tokens, and for answers.
    Rule("cls.{any}", None),
    Rule("classifier.{any}", None),
    Rule("qa_outputs.{any}", None),
]

PREFIXES = ("bert.",)

# The defaults of `BertConfig`, which a config may leave out. Only old releases have the last field.
_DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    is_decoder=False,
    position_embedding_type="absolute",
)


@dataclasses.dataclass(frozen=True)
class BertSpec:
    """The fields of `FusionSpec` that a BERT has, too."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float


def spec_from_config(config: dict) -> BertSpec:
    """Read the layers' shape from a `BertConfig`, which may leave out defaults.

    Raises:
      UserError: the config is of a decoder, or of relative position embeddings.
    """
    config = _DEFAULTS | config
    for field in ("is_decoder", "position_embedding_type"):
        if config[field] != _DEFAULTS[field]:
            raise UserError(
                f"config.json has {field}={config[field]}; only {_DEFAULTS[field]} is ported"
            )
    return BertSpec(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        activation=config["hidden_act"],
        epsilon=config["layer_norm_eps"],
    )


def plan_last_layers(
    tensors: Mapping[str, Shape],
    layers_there: int,
    layers_used: int,
    block: Mapping[str, Shape],
    source: str,
) -> Plan:
    """Match a checkpoint's tensors to the leaves of its last layers.

    The other layers are checked as strictly, and then dropped.

    Args:
      tensors: shape of every tensor of the checkpoint, by name.
      layers_there: number of layers that the checkpoint has.
      layers_used: number of layers to use, at most `layers_there`.
      block: shape of every leaf of one BERT layer, by its path in the layer.
      source: name of the checkpoint in error messages.

    Returns:
      A plan whose leaves are named `layers_00/...` from the first used layer on.

    Raises:
      UserError: tensors are unknown, missing, repeated or of a wrong shape. The message names all
        of them.
    """
    layers = [_BLOCK.format(n=n) for n in range(layers_there)]
    shapes = {f"{layer}/{leaf}": shape for layer in layers for leaf, shape in block.items()}
    plan = make_plan(tensors, RULES, shapes, source, PREFIXES)
    renamed = dict(zip(layers[layers_there - layers_used :], layers, strict=False))
    kept = Plan({}, plan.dropped)
    for name, (rule, (path,)) in plan.reads.items():
        layer, _, leaf = path.partition("/")
        if layer in renamed:
            kept.reads[name] = rule, (f"{renamed[layer]}/{leaf}",)
        else:
            kept.dropped.setdefault(rule.name, []).append(name)
    return kept
