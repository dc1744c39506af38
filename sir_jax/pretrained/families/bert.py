"""BERT checkpoints of `transformers`, whose last layers start the fusion encoder as in ALBEF.

Not a family of `load`: a BERT is no encoder of speech or images. ALBEF (arXiv 2107.07651) takes the
last 6 of BERT-base's 12 layers; their cross-attention, which BERT has not, stays random.
"""

import dataclasses
from collections.abc import Mapping

from sir_jax.errors import UserError
from sir_jax.pretrained.rules import Plan, Rule, Shape, make_plan, pair

_LAYER = "encoder.layer.{n}"
_BLOCK = "layers_{n:02d}"


def _norm(name: str, path: str) -> list[Rule]:
    """Return the rules of a norm, whose parts the files of Google's release call otherwise."""
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
    # Heads: of words and of the next sentence; of classes, a sequence's or a token's; of answers.
    Rule("cls.{any}", None),
    Rule("classifier.{any}", None),
    Rule("qa_outputs.{any}", None),
]

PREFIXES = ("bert.",)

# The defaults of `BertConfig`, which a config may leave out; the last was a field of old releases.
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
    """What the fusion encoder has in common with a BERT; fields are named as in `FusionSpec`."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float


def spec_from_config(config: dict) -> BertSpec:
    """Read the layers' shape from a `BertConfig`, which may leave out defaults.

    Raises:
      UserError: on a decoder, and on an attention that knows distances.
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
    tensors: Mapping[str, Shape], there: int, wanted: int, block: Mapping[str, Shape], source: str
) -> Plan:
    """Match a checkpoint's tensors to the leaves of as many layers as are wanted, its last ones.

    The layers before them are looked at just as strictly, and then dropped.

    Args:
      tensors: the shape of every tensor of the checkpoint, by name.
      there: how many layers the checkpoint has.
      wanted: how many of them are, no more than that.
      block: the shape of every leaf of one layer that BERT has, by path inside the layer.
      source: what to call the checkpoint in errors.

    Returns:
      A plan whose leaves are named `layers_00/...` from the first wanted layer on.

    Raises:
      UserError: naming every unknown, missing, repeated and wrongly shaped tensor together.
    """
    layers = [_BLOCK.format(n=n) for n in range(there)]
    shapes = {f"{layer}/{leaf}": shape for layer in layers for leaf, shape in block.items()}
    plan = make_plan(tensors, RULES, shapes, source, PREFIXES)
    renamed = dict(zip(layers[there - wanted :], layers, strict=False))
    kept = Plan({}, plan.dropped)
    for name, (rule, (path,)) in plan.reads.items():
        layer, _, leaf = path.partition("/")
        if layer in renamed:
            kept.reads[name] = rule, (f"{renamed[layer]}/{leaf}",)
        else:
            kept.dropped.setdefault(rule.name, []).append(name)
    return kept
