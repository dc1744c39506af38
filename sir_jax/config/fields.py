"""The one table of what a config holds: field, default, what it may be, and what it is for.

`base_config`, the checks and their messages, `sir-jax train --help` and the reference page are all
made from it.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from sir_jax.config.augment_fields import AUGMENT
from sir_jax.config.model_fields import INIT, MODEL
from sir_jax.config.rules import (
    Channels,
    Choice,
    Field,
    Flag,
    Patterns,
    Rates,
    Real,
    Several,
    Span,
    Stretch,
    Text,
    Whole,
    rows,
)
from sir_jax.config.specs import CLIP_MEAN, CLIP_STD, DTYPES, MODALITIES, vit_fields

TRIMS = ("none", "faint", "speech")  # what is cut off the ends of clips
FITS = ("crop", "squash")  # of a picture into a square
REACHES = ("global", "shard")  # where negatives come from: the batch, or a device's part
SOURCES = (*REACHES, "group")  # where noise comes from: also a group of look-alikes
DIRECTIONS = (*MODALITIES, "both")
FORMS = ("cosine", "mse", "infonce")  # of `losses.denoising`
TOKENS = ("replaced", "all")
PATTERNS = ("runs", "alike")
ALGORITHMS = ("adamw", "muon", "schedule_free")
SCHEDULES = ("cosine", "linear", "constant")
LISTS = ("group", "batch")  # of `loss.sim.list_weight`
GROUPINGS = ("image", "caption", "both")  # of `data.alike`

# Steps are counted in int32 on the devices.
_COUNT = 2**31 - 1
_SHARE = Real(0, 1)
_WEIGHT = Real(0, 1_000)


_DATA = rows(
    "data",
    ("corpus", "", Text(), "corpus to train on, e.g. manifest/NAME or spoken_scenes/NAME"),
    (
        "data_dir",
        "",
        Text("a folder"),
        "where corpora live; empty: $SIR_JAX_DATA, else ./data",
        True,
    ),
    ("batch_size", 256, Whole(1, 2**20 - 1), "pairs a step, over all devices"),
    (
        "buckets",
        (40_000, 56_000, 72_000, 102_400),
        Several(Whole(1, 57_600_000), "numbers of samples", 64, rising=True),
        "lengths that clips are padded to, 16,000 a second; each compiles a program",
    ),
    ("normalize_wave", True, Flag(), "bring each clip to mean 0 and variance 1"),
    (
        "trim_silence",
        "none",
        Choice(TRIMS),
        "cut off quiet ends of clips: faint, 35 dB below the loudest, in use; or what is 15 dB "
        "below loud speech, in training and use",
    ),
    (
        "image_size",
        vit_fields("B/32")["image_size"],
        Whole(1, 4_096),
        "side of the square picture in pixels; equals model.image.image_size",
    ),
    (
        "image_mean",
        CLIP_MEAN,
        Channels(Real(-10, 10)),
        "mean that is subtracted from pixels between 0 and 1",
    ),
    ("image_std", CLIP_STD, Channels(Real(0.001, 10)), "deviation that pixels are then divided by"),
    (
        "image_fit",
        "crop",
        Choice(FITS),
        "crop: resize the short side, cut out the centre; squash: resize both sides",
    ),
    (
        "crop_scale",
        (1.0, 1.0),
        Span(Real(0, 1, above=True)),
        "share of a training picture's area that a random crop keeps; (1, 1): no crop",
    ),
)

_FEATURES = rows(
    "data",
    (
        "features",
        "",
        Text("a folder"),
        "outputs of frozen encoders, from `sir-jax data featurize`; empty: the encoders run",
    ),
)

_GROUPS = rows(
    "data",
    (
        "groups",
        0,
        Whole(2, 4_096, 0),
        "look-alikes that stay together, in a device's part of a batch; 0: batches at random",
    ),
    ("grouped_after", 0, Whole(0, _COUNT), "steps at random before the first epoch of groups"),
    (
        "group_by",
        "image",
        Choice(GROUPINGS),
        "what is alike: image and image, caption and image, or the mean of both",
    ),
    (
        "search_space",
        4_096,
        Whole(2, 32_768),
        "captions among which neighbours are looked for, drawn at random in each epoch",
    ),
)

_LOSS = (
    *rows(
        "loss.sic",
        ("weight", 1.0, _WEIGHT, "weight of the contrastive term (speech-image contrast)"),
        ("queue", 0, Whole(0, 2**26), "past momentum embeddings that count as candidates, too"),
        ("alpha", 0.0, _SHARE, "weight of the momentum teacher's targets"),
        ("alpha_ramp", 0, Whole(0, _COUNT), "steps in which alpha rises from 0 to its value"),
    ),
    *rows(
        "loss.sim",
        ("weight", 0.0, _WEIGHT, "weight of the matching term (speech-image matching)"),
        (
            "mining",
            "global",
            Choice(REACHES),
            "hard negatives from the whole batch, or from a device's part",
        ),
        ("negatives", 1, Whole(1, 1_024), "hard images and hard clips of a pair, of each so many"),
        (
            "list_weight",
            0.0,
            _WEIGHT,
            "weight, within the term, of the loss over all pairs of a group of data.groups; 0: off",
        ),
        ("list_over", "group", Choice(LISTS), "pairs of a list: of a group, or of the whole batch"),
        (
            "teach_weight",
            0.0,
            _WEIGHT,
            "weight, within the term, of embeddings learning a group's match scores; 0: off",
        ),
    ),
    *rows(
        "loss.cmd",
        ("weight", 0.0, _WEIGHT, "weight of the denoising term (cross-modal denoising)"),
        ("direction", "image", Choice(DIRECTIONS), "what is made noisy and rebuilt"),
        ("form", "cosine", Choice(FORMS), "distance between rebuilt and clean tokens"),
        ("tokens", "replaced", Choice(TOKENS), "tokens that the loss counts"),
        ("ratio", 0.3, Real(0, 1, above=True), "expected share of replaced tokens"),
        ("pattern", "runs", Choice(PATTERNS), "noise in runs, or in sets of tokens that are alike"),
        ("block", 1, Whole(1, 4_096), "tokens that are replaced in a run, by the pattern runs"),
        (
            "source",
            "global",
            Choice(SOURCES),
            "noise from the whole batch, from a device's part, or from a group of data.groups",
        ),
        ("temperature", 0.07, Real(0.001, 100), "temperature of the form infonce"),
        ("negative_weight", 0.0, _WEIGHT, "weight of a noisy picture as SIC's negative; 0: off"),
    ),
    *rows(
        "loss.teacher",
        (
            "momentum",
            0.995,
            Real(0, 1, below=True),
            "share of itself that the teacher keeps at a step; queue and alpha need a teacher",
        ),
    ),
    *rows(
        "loss",
        (
            "max_relative",
            0.0,
            _SHARE,
            "a pair above this share of the true pair's cosine is no negative; 0 or 1: off",
        ),
    ),
)

_OPTIM = rows(
    "optim",
    (
        "algorithm",
        "adamw",
        Choice(ALGORITHMS),
        "adamw; muon: for matrices of layers, NAdamW for the rest; schedule_free: AdamW, averaged",
    ),
    ("learning_rate", 1e-4, Real(0, 10), "the rate at the end of the warm-up"),
    ("schedule", "cosine", Choice(SCHEDULES), "how the rate falls from there to the last step"),
    ("warmup_steps", 500, Whole(0, _COUNT), "steps in which the rate rises linearly"),
    ("end_factor", 0.0, _SHARE, "rate of the last step, as a share of learning_rate"),
    ("weight_decay", 0.02, Real(0, 10), "decay of weights, decoupled: times the rate at each step"),
    ("b1", 0.9, Real(0, 1, below=True), "share of the old mean of gradients that is kept"),
    ("b2", 0.98, Real(0, 1, below=True), "share of the old mean of their squares that is kept"),
    ("eps", 1e-8, Real(0, 1, above=True), "number added to the square root of that mean"),
    ("clip_norm", 4.0, Real(0, 1e6), "largest global norm of a gradient; 0: not clipped"),
    (
        "no_decay",
        ("temperature", ".*/(bias|scale|g|cls|position)"),
        Patterns(),
        "parameters that weight decay leaves alone",
    ),
    ("freeze", (), Patterns(), "parameters that are not trained"),
    (
        "rates",
        (),
        Rates(),
        "rates of their own, as PATTERN=FACTOR of learning_rate; the first that fits counts",
    ),
    (
        "frozen_dtype",
        "float32",
        Choice(DTYPES),
        "type of frozen parameters; bfloat16 takes half the memory",
    ),
)

_TRAIN = rows(
    "train",
    ("steps", 10_000, Whole(1, _COUNT), "updates in the whole run"),
    ("log_every", 10, Whole(1, _COUNT), "steps between two lines of metrics.jsonl", True),
    ("eval_every", 500, Whole(0, _COUNT), "steps between two evaluations; 0: at the end only"),
    (
        "checkpoint_every",
        500,
        Whole(0, _COUNT),
        "steps between two checkpoints; 0: at evaluations and at the end only",
        True,
    ),
    (
        "grad_accum",
        1,
        Whole(1, 65_536),
        "microbatches of a batch; a pair's negatives come from its own microbatch",
    ),
    (
        "grad_cache",
        1,
        Whole(1, 65_536),
        "microbatches whose negatives come from the whole batch, for one more pass",
    ),
    (
        "num_threads",
        4,
        Whole(0, 1_024),
        "threads that prepare batches; 0: the step waits for them",
        True,
    ),
    (
        "num_workers",
        0,
        Whole(0, 1_024),
        "processes that prepare batches, each with as many threads",
        True,
    ),
    (
        "compile_cache",
        "",
        Text("a folder"),
        "folder where compiled programs are kept; 'workdir': in the run's; empty: nowhere",
        True,
    ),
    (
        "overlap",
        False,
        Flag(),
        "send while computing: the compiler's flags of `training.step.OVERLAP` for the platform",
        True,
    ),
    (
        "watchdog_seconds",
        600.0,
        Real(0, 1e9),
        "seconds without a finished step after which stacks are printed; 0: never",
        True,
    ),
    (
        "profile",
        (0, 0),
        Stretch(_COUNT),
        "(start, steps): a trace of so many steps after step `start`, in the workdir; (0, 0): none",
        True,
    ),
)

_EVAL = rows(
    "eval",
    (
        "rerank",
        0,
        Whole(0, 1_000_000),
        "results best by embedding that matching ranks again; 0: none",
    ),
)

_MESH = rows(
    "mesh",
    (
        "data",
        -1,
        Whole(1, 1_000_000, -1),
        "devices that share the batch; -1: all that are left",
        True,
    ),
    (
        "fsdp",
        1,
        Whole(1, 1_000_000, -1),
        "devices that share batch and weights; -1: the rest",
        True,
    ),
    ("tensor", 1, Whole(1, 1_000_000, -1), "devices that share each matrix; -1: the rest", True),
    (
        "frozen_whole",
        4.0,
        Real(0, 1e6),
        "GiB up to which a frozen encoder lies whole on every device",
        True,
    ),
)

TABLE: tuple[Field, ...] = (
    Field(
        "seed",
        0,
        Whole(0, 2**32 - 1),
        "seed of initial parameters, order, crops, augmentation, negatives and noise",
    ),
    *_DATA,
    *AUGMENT,
    *_FEATURES,
    *_GROUPS,
    *MODEL,
    *INIT,
    *_LOSS,
    *_OPTIM,
    *_TRAIN,
    *_EVAL,
    *_MESH,
)

FIELDS: dict[str, Field] = {field.name: field for field in TABLE}

# The terms of the objective: what of `loss` has a weight, in the order of the table.
TERMS: tuple[str, ...] = tuple(
    name.split(".")[1] for name in FIELDS if name.startswith("loss.") and name.endswith(".weight")
)


def weighed_terms(loss: Mapping | ConfigDict) -> str:
    """Return the terms of an objective with their weights as text, e.g. '1 SIC + 0.5 CMD'."""
    return " + ".join(f"{loss[t].weight:g} {t.upper()}" for t in TERMS if loss[t].weight)


def config_fields(cfg: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return every field of a config, or of plain dicts, by its dotted name."""
    fields = {}
    for name, value in cfg.items():
        if isinstance(value, Mapping | ConfigDict | FrozenConfigDict):
            fields.update(config_fields(value, f"{prefix}{name}."))
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def nearest(field: str, names: Iterable[str]) -> str:
    """Return the dotted name most like a mistyped one; the same last name elsewhere counts."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, field, candidate).ratio()
        ends = (name.rsplit(".", 1)[-1] for name in (field, candidate))
        return max(whole, 0.99 * difflib.SequenceMatcher(None, *ends).ratio())

    return max(sorted(names), key=likeness)
