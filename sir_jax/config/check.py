"""Refuse what no run can use before anything is built: by the table, then by fields' relations.

Whatever is read is checked here: the command line and config files as a whole; a workdir's or a
release's config in what its reader uses.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sir_jax.config.fields import FIELDS, config_fields, nearest
from sir_jax.errors import UserError

# What a reader of a workdir or a release uses; a release has no `loss`.
STORED_SECTIONS = ("model", "data", "loss", "eval")
# Which of `data` a release has; see `inference.release`.
RELEASED_DATA = (
    "corpus",
    "batch_size",
    "buckets",
    "normalize_wave",
    "trim_silence",
    "image_size",
    "image_mean",
    "image_std",
    "image_fit",
)

# Samples at 16 kHz: a tenth of a second, below which no bucket holds a word, and ten seconds, above
# which no encoder's frame tells words apart.
_SHORTEST_BUCKET, _LONGEST_FRAME = 1_600, 160_000
_MOST_PATCHES = 65_536


def check_config(cfg: ConfigDict) -> None:
    """Check a whole config.

    Raises:
      UserError: naming the field, its value and what it may be.
    """
    values = config_fields(cfg)
    unknown = sorted(values.keys() - FIELDS.keys())
    if unknown:
        raise UserError(
            f"the config has no field {unknown[0]!r}; the nearest is {nearest(unknown[0], FIELDS)}"
        )
    for name in FIELDS:
        if name not in values:
            raise UserError(f"the config has no field {name}; start it from base_config()")
    check_values(values)
    for check in (*_MODEL_RELATIONS, *_RUN_RELATIONS):
        check(cfg)


def check_values(values: Mapping[str, Any]) -> None:
    """Check values by themselves.

    Args:
      values: by the dotted names of their fields; names that are no field's are passed over.

    Raises:
      UserError: naming the field, its value and what it may be.
    """
    for name, value in values.items():
        if name in FIELDS:
            FIELDS[name].check(value)


def check_section(section: str, cfg: Mapping | ConfigDict) -> None:
    """Check the values of one section, e.g. of 'data'; see `check_values`."""
    check_values(config_fields(cfg, f"{section}."))


def check_stored(plain: Mapping[str, Any], source: str) -> None:
    """Check what a reader uses of the config of a workdir or a release.

    Args:
      plain: brought up to date by `upgrade`.
      source: where it was read, for the message.

    Raises:
      UserError: naming the field, its value and what it may be.
    """
    wanted = [name for name in FIELDS if name.startswith("model.")]
    wanted += [f"data.{name}" for name in RELEASED_DATA] + ["eval.rerank"]
    if "loss" in plain:  # of a run
        wanted += [name for name in FIELDS if name.startswith("loss.")]
    sections = {
        name: plain[name] for name in STORED_SECTIONS if isinstance(plain.get(name), Mapping)
    }
    values = config_fields(sections)
    try:
        _check_names(values, wanted)
        check_values(values)
        cfg = ConfigDict(sections)
        for check in _MODEL_RELATIONS:
            check(cfg)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _check_names(values: Mapping[str, Any], wanted: Iterable[str]) -> None:
    for name in wanted:
        if name not in values:
            raise UserError(f"there is no {name}; get the file again")
    unknown = sorted(values.keys() - FIELDS.keys())
    if unknown:
        raise UserError(f"{unknown[0]} is no field of this sir_jax; install the one that wrote it")


def _check_convolutions(cfg) -> None:
    speech = cfg.model.speech
    sizes = {name: tuple(speech[name]) for name in ("conv_width", "conv_kernel", "conv_stride")}
    if len({len(size) for size in sizes.values()}) > 1:
        text = ", ".join(f"model.speech.{name}={size}" for name, size in sizes.items())
        raise UserError(f"{text} differ in length; give one number for each convolution")
    samples = frame_samples(speech)
    if samples > _LONGEST_FRAME:
        raise UserError(
            f"model.speech.conv_kernel={sizes['conv_kernel']} and model.speech.conv_stride="
            f"{sizes['conv_stride']} make one frame of {samples:,} samples; "
            f"the most is {_LONGEST_FRAME:,}, ten seconds"
        )


def frame_samples(speech) -> int:
    """Return how many samples make one frame; see `specs.HubertSpec.min_samples`."""
    need = 1
    for kernel, stride in zip(speech.conv_kernel[::-1], speech.conv_stride[::-1], strict=True):
        need = (need - 1) * stride + kernel
    return need


def _check_widths(cfg) -> None:
    """See that heads and groups divide the widths of all parts that are used."""
    model = cfg.model
    pairs = [
        ("speech.width", "speech.heads"),
        ("speech.width", "speech.pos_groups"),
        ("image.width", "image.heads"),
        ("image.image_size", "image.patch"),
    ]
    if model.head.kind == "transformer":
        pairs.append(("speech.width", "head.heads"))
    elif model.head.taps % 2 == 0:
        raise UserError(f"model.head.taps={model.head.taps} is even; give an odd number")
    if model.match.taps and model.match.taps % 2 == 0:
        raise UserError(f"model.match.taps={model.match.taps} is even; give an odd number, or 0")
    if model.image_head == "qformer":
        pairs.append(("qformer.width", "qformer.heads"))
    if _uses_fusion(cfg):
        pairs.append(("fusion.width", "fusion.heads"))
        if model.fusion.width % 2:
            raise UserError(f"model.fusion.width={model.fusion.width} is odd; give an even number")
    values = config_fields(model)
    for whole, part in pairs:
        if values[whole] % values[part]:
            raise UserError(
                f"model.{part}={values[part]} does not divide model.{whole}={values[whole]}"
            )
    patches = (model.image.image_size // model.image.patch) ** 2
    if patches > _MOST_PATCHES:
        raise UserError(
            f"model.image.image_size={model.image.image_size} in patches of model.image.patch="
            f"{model.image.patch} makes {patches:,} of them; the most is {_MOST_PATCHES:,}"
        )


def _uses_fusion(cfg) -> bool:
    """Tell whether the fusion encoder may be built; a release's config does not tell."""
    fused = cfg.model.match.kind in ("fusion", "both")
    return "loss" not in cfg or bool(cfg.loss.sim.weight and fused or cfg.loss.cmd.weight)


def _check_projection(cfg) -> None:
    model = cfg.model
    if model.image_head == "qformer" and model.qformer.projection != model.embed_width:
        raise UserError(
            f"model.embed_width={model.embed_width} differs from model.qformer.projection="
            f"{model.qformer.projection}, which makes the embedding"
        )


def _check_attention(cfg) -> None:
    if cfg.model.attention == "cudnn" and cfg.model.dtype != "bfloat16":
        raise UserError(
            f"model.attention='cudnn' computes in bfloat16, and model.dtype={cfg.model.dtype!r}; "
            "set model.dtype='bfloat16' or model.attention='xla'"
        )


def _check_input(cfg) -> None:
    size, wanted = cfg.data.image_size, cfg.model.image.image_size
    if size != wanted:
        raise UserError(f"data.image_size={size} differs from model.image.image_size={wanted}")


def _check_buckets(cfg) -> None:
    buckets, frame = tuple(cfg.data.buckets), frame_samples(cfg.model.speech)
    if buckets[0] < frame:
        raise UserError(
            f"data.buckets={buckets}: the first is shorter than one frame of {frame} samples"
        )
    if buckets[-1] < _SHORTEST_BUCKET:
        raise UserError(
            f"data.buckets={buckets} cuts every clip to {buckets[-1]} samples, "
            f"{1e3 * buckets[-1] / 16_000:g} ms; the last is at least {_SHORTEST_BUCKET:,}"
        )


def _check_terms(cfg) -> None:
    loss, train = cfg.loss, cfg.train
    if not (loss.sic.weight or loss.sim.weight or loss.cmd.weight):
        raise UserError(
            "loss.sic.weight, loss.sim.weight and loss.cmd.weight are all 0; set one of them"
        )
    if train.grad_accum > 1 and train.grad_cache > 1:
        raise UserError(
            f"train.grad_accum={train.grad_accum} and train.grad_cache={train.grad_cache}: "
            "both cut the batch; set one of them to 1"
        )
    # Of past batches, contrast alone can take what a pair is told from.
    alone = loss.sic.weight and loss.sic.queue and not (loss.sim.weight or loss.cmd.weight)
    batch, parts = cfg.data.batch_size, train.grad_accum
    if batch // parts < 2 and not alone:
        cut = f" in train.grad_accum={parts} microbatches" if parts > 1 else ""
        raise UserError(
            f"data.batch_size={batch}{cut} leaves a pair no other one to be told from; "
            f"give at least {2 * parts}"
        )


def _check_groups(cfg) -> None:
    data, sim = cfg.data, cfg.loss.sim
    lists = sim.weight and (sim.list_weight or sim.teach_weight)
    if lists and sim.list_over == "batch" and _matches_by_token(cfg):
        raise UserError(
            f"loss.sim.list_over='batch' with model.match.kind={cfg.model.match.kind!r} would read "
            "every pair of the batch token by token; set list_over to 'group', or kind to 'pooled'"
        )
    if not data.groups:
        by_group = sim.weight and sim.list_over == "group"
        for name, on in (
            (f"loss.sim.list_weight={sim.list_weight:g}", by_group and sim.list_weight),
            (f"loss.sim.teach_weight={sim.teach_weight:g}", by_group and sim.teach_weight),
            ("loss.cmd.source='group'", cfg.loss.cmd.weight and cfg.loss.cmd.source == "group"),
        ):
            if on:
                raise UserError(f"{name} needs groups of look-alikes; set data.groups, e.g. to 8")
        return
    if sim.weight and sim.teach_weight and not cfg.loss.sic.weight:
        raise UserError(
            f"loss.sim.teach_weight={sim.teach_weight:g} with loss.sic.weight=0: there is no "
            "contrast to teach; set loss.sic.weight"
        )
    if data.search_space < data.groups:
        raise UserError(
            f"data.search_space={data.search_space} holds no group of data.groups={data.groups}; "
            f"give at least {data.groups}"
        )
    if not cfg.loss.sic.weight and not cfg.init.model:
        raise UserError(
            f"data.groups={data.groups} with loss.sic.weight=0: nothing trains the embeddings that "
            "tell look-alikes; set loss.sic.weight, or init.model to a trained retriever"
        )


def _matches_by_token(cfg) -> bool:
    """Tell whether a match that is trained reads tokens pair by pair; pooled vectors do not."""
    if cfg.model.match.kind != "both":
        return cfg.model.match.kind != "pooled"
    frozen = cfg.optim.freeze
    parts = "fusion", "match_head"
    return not all(any(re.fullmatch(pattern, part) for pattern in frozen) for part in parts)


def _check_noisy_negatives(cfg) -> None:
    cmd, head = cfg.loss.cmd, cfg.model.image_head
    if not (cmd.weight and cmd.negative_weight):
        return
    name = f"loss.cmd.negative_weight={cmd.negative_weight:g}"
    if not cfg.loss.sic.weight:
        raise UserError(
            f"{name} with loss.sic.weight=0: there is no contrast to join; set loss.sic.weight"
        )
    if cmd.direction != "image":
        raise UserError(
            f"{name} with loss.cmd.direction={cmd.direction!r}: noisy speech has no embedding, as "
            "its head reads what comes before the tokens; set loss.cmd.direction='image'"
        )
    if head != "pool":
        raise UserError(
            f"{name} with model.image_head={head!r}, which does not embed a picture by the tokens "
            "that are made noisy; set model.image_head='pool'"
        )


def _check_optimizer(cfg) -> None:
    optim = cfg.optim
    if optim.algorithm != "schedule_free":
        return
    if optim.schedule != "constant":
        raise UserError(
            f"optim.schedule={optim.schedule!r} with optim.algorithm='schedule_free', which has "
            "none; set optim.schedule='constant'"
        )
    if not optim.b1:
        raise UserError("optim.b1=0 with optim.algorithm='schedule_free'; set it above 0, e.g. 0.9")


_Relation = Callable[[ConfigDict], None]

# Of what every reader of a config uses, and of what only a run does.
_MODEL_RELATIONS: tuple[_Relation, ...] = (
    _check_convolutions,
    _check_widths,
    _check_projection,
    _check_input,
    _check_buckets,
)
_RUN_RELATIONS: tuple[_Relation, ...] = (
    _check_attention,
    _check_terms,
    _check_groups,
    _check_noisy_negatives,
    _check_optimizer,
)


def check_batch(cfg: ConfigDict, mesh) -> None:
    """Refuse a batch whose microbatches do not divide over the mesh.

    Args:
      cfg: the whole config.
      mesh: with the axes `data` and `fsdp`.

    Raises:
      UserError: naming the fields and the nearest batch size that fits.
    """
    field = "grad_cache" if cfg.train.grad_cache > 1 else "grad_accum"
    unit = cfg.train[field] * mesh.shape["data"] * mesh.shape["fsdp"]
    batch = cfg.data.batch_size
    if batch % unit:
        raise UserError(
            f"data.batch_size={batch} must be a multiple of {unit} = train.{field} "
            f"{cfg.train[field]} x mesh.data {mesh.shape['data']} x mesh.fsdp "
            f"{mesh.shape['fsdp']}; e.g. {max(unit, batch - batch % unit)}"
        )
    loss, each = cfg.loss, batch // cfg.train.grad_accum
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    groups, part = cfg.data.groups, each // devices
    if groups and part % groups:
        micro = " in a microbatch" if cfg.train.grad_accum > 1 else ""
        raise UserError(
            f"data.groups={groups} must divide the {part} pairs that data.batch_size={batch} gives "
            f"each of {devices} devices{micro}; e.g. data.batch_size="
            f"{groups * max(1, part // groups) * devices * cfg.train.grad_accum}"
        )
    for name, on in (
        ("sim.mining", loss.sim.weight and loss.sim.mining == "shard"),
        ("cmd.source", loss.cmd.weight and loss.cmd.source == "shard"),
    ):
        if on and each < 2 * devices:
            raise UserError(
                f"loss.{name}='shard' leaves a device one pair of data.batch_size={batch}, and no "
                f"other one to draw from; set 'global', or a batch of at least {2 * batch}"
            )
    sim, rows = loss.sim, part if loss.sim.mining == "shard" else each
    if sim.weight and sim.negatives >= rows:
        raise UserError(
            f"loss.sim.negatives={sim.negatives}: a pair has {rows - 1} others to draw from with "
            f"loss.sim.mining={sim.mining!r} and data.batch_size={batch}; give at most {rows - 1}"
        )
