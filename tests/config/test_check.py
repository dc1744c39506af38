"""Values that cannot be meant are refused in one line that names them, before anything is built."""

import json

import pytest
from tiny_models import tiny_config

from sir_jax.cli.main import main
from sir_jax.config.check import check_batch, check_config
from sir_jax.config.compare import read_stored, to_json
from sir_jax.config.upgrade import upgrade
from sir_jax.errors import UserError

NAN, INF = float("nan"), float("inf")

ALONE = [
    ("seed", -1, "seed=-1: must be a whole number from 0"),
    ("seed", 2**32, "from 0 to 2^32 - 1"),
    ("seed", 10**30, "from 0 to 2^32 - 1"),
    ("data.batch_size", 0, "data.batch_size=0: must be a whole number from 1"),
    ("data.buckets", (), "data.buckets=(): must be 1 to 64 rising numbers of samples"),
    ("data.buckets", ("abc",), "data.buckets=('abc',): must be"),
    ("data.buckets", (1_600.5,), "data.buckets=(1600.5,): must be"),
    ("data.buckets", (3_200, 3_200), "rising"),
    ("data.buckets", (3_200, 10**9), "to 57,600,000"),
    ("data.crop_scale", (0.0, 1.0), "(least, largest), rising, above 0 and at most 1"),
    ("data.image_mean", (0.5, 0.5, 1e308), "three numbers, red, green and blue"),
    ("data.image_std", (0.0, 1.0, 1.0), "each from 0.001"),
    ("data.image_fit", "stretch", "data.image_fit='stretch' is none of crop, squash"),
    ("data.augment.noise.kinds", ("brown",), "at least one of white, pink, babble"),
    ("data.augment.speed.factor", (0.1, 1.0), "rising, from 0.5 to 2"),
    ("data.augment.image.grey", 1.5, "data.augment.image.grey=1.5: must be from 0 to 1"),
    ("model.speech.layers", 0, "model.speech.layers=0: must be a whole number from 1 to 128"),
    ("model.speech.layers", 10**6, "from 1 to 128"),
    ("model.speech.dropout", 2.0, "must be from 0 to below 1"),
    ("model.speech.dropout", 1.0, "must be from 0 to below 1"),
    ("model.speech.epsilon", 0.0, "must be above 0 and at most 0.1"),
    ("model.speech.pos_kernel", 10**6, "from 1 to 4096"),
    ("model.speech.conv_stride", (0, 8), "model.speech.conv_stride=(0, 8): must be"),
    ("model.speech.conv_kernel", (10**6, 8), "each from 1 to 4096"),
    ("model.speech.conv_norm", "batch", "is none of group, layer"),
    ("model.speech.activation", "tanh", "is none of gelu, gelu_tanh, quick_gelu, relu"),
    ("model.image.patch", 0, "model.image.patch=0"),
    ("model.head.layers", -1, "model.head.layers=-1"),
    ("model.embed_width", 0, "model.embed_width=0: must be a whole number from 1"),
    ("model.init_temperature", -1.0, "must be from 0.001 to 0.5"),
    ("model.init_temperature", 1.0, "must be from 0.001 to 0.5"),
    ("model.dtype", "float16", "is none of float32, bfloat16"),
    ("loss.sic.weight", -1.0, "loss.sic.weight=-1.0: must be from 0 to 1000"),
    ("loss.sic.alpha", 1.5, "must be from 0 to 1"),
    ("loss.cmd.weight", NAN, "loss.cmd.weight=nan: must be from 0"),
    ("loss.cmd.ratio", 0.0, "must be above 0 and at most 1"),
    ("loss.cmd.form", "l2", "is none of cosine, mse, infonce"),
    ("loss.cmd.temperature", 0.0, "loss.cmd.temperature=0.0"),
    ("loss.teacher.momentum", 1.0, "must be from 0 to below 1"),
    ("optim.learning_rate", -1.0, "optim.learning_rate=-1.0: must be from 0 to 10"),
    ("optim.learning_rate", INF, "optim.learning_rate=inf"),
    ("optim.schedule", "cosin", "is none of cosine, linear, constant"),
    ("optim.warmup_steps", -3, "optim.warmup_steps=-3"),
    ("optim.end_factor", 2.0, "optim.end_factor=2.0"),
    ("optim.weight_decay", -1.0, "optim.weight_decay=-1.0"),
    ("optim.b1", 2.0, "optim.b1=2.0: must be from 0 to below 1"),
    ("optim.b2", -1.0, "optim.b2=-1.0: must be from 0 to below 1"),
    ("optim.eps", 0.0, "optim.eps=0.0: must be above 0"),
    ("optim.clip_norm", -1.0, "optim.clip_norm=-1.0: must be from 0"),
    ("optim.freeze", ("(",), "optim.freeze=('(',) holds '(', which is no regular expression"),
    ("optim.no_decay", ("(?i)x",), "which is no regular expression"),
    ("optim.rates", ("fusion",), "must be PATTERN=FACTOR texts"),
    ("optim.rates", ("fusion=fast",), "holds 'fusion=fast', whose factor is no number"),
    ("optim.rates", ("fusion=-1",), "holds 'fusion=-1', whose factor must be from 0 to 1000"),
    ("optim.rates", ("(=2",), "holds '(', which is no regular expression"),
    ("train.steps", 0, "train.steps=0: must be a whole number from 1 to 2^31 - 1"),
    ("train.steps", 2**31, "train.steps=2147483648"),
    ("train.watchdog_seconds", NAN, "train.watchdog_seconds=nan"),
    ("eval.rerank", -1, "eval.rerank=-1"),
    ("mesh.data", 0, "mesh.data=0: must be a whole number from 1 to 1,000,000, or -1"),
    ("mesh.frozen_whole", -1.0, "mesh.frozen_whole=-1.0"),
]

# The tiny model has width 32, 2 heads, 2 groups, frames of 180 samples and pictures of 16 pixels.
TOGETHER = [
    ({"model.speech.heads": 5}, "model.speech.heads=5 does not divide model.speech.width=32"),
    ({"model.speech.width": 33}, "model.speech.heads=2 does not divide model.speech.width=33"),
    ({"model.speech.pos_groups": 3}, "pos_groups=3 does not divide model.speech.width=32"),
    ({"model.head.heads": 3}, "model.head.heads=3 does not divide model.speech.width=32"),
    ({"model.image.patch": 7}, "model.image.patch=7 does not divide model.image.image_size=16"),
    ({"model.image.heads": 3}, "model.image.heads=3 does not divide model.image.width=32"),
    ({"model.speech.conv_stride": (20,)}, "conv_stride=(20,) differ in length; give one number"),
    (
        {"model.speech.conv_kernel": (4_096,) * 2, "model.speech.conv_stride": (4_096,) * 2},
        "make one frame of 16,777,216 samples; the most is 160,000, ten seconds",
    ),
    ({"model.fusion.heads": 3, "loss.sim.weight": 1.0}, "does not divide model.fusion.width=32"),
    ({"model.fusion.width": 33, "model.fusion.heads": 3, "loss.cmd.weight": 1.0}, "33 is odd"),
    ({"model.image_head": "qformer"}, "model.embed_width=16 differs from model.qformer.projectio"),
    (
        {"data.image_size": 4_096, "model.image.image_size": 4_096, "model.image.patch": 1},
        "makes 16,777,216 of them; the most is 65,536",
    ),
    ({"data.image_size": 32}, "data.image_size=32 differs from model.image.image_size=16"),
    ({"data.buckets": (10,)}, "data.buckets=(10,): the first is shorter than one frame of 180"),
    ({"data.buckets": (200,)}, "data.buckets=(200,) cuts every clip to 200 samples, 12.5 ms"),
    ({"data.batch_size": 1}, "data.batch_size=1 leaves a pair no other one to be told from; give"),
    (
        {"data.batch_size": 8, "train.grad_accum": 8},
        "data.batch_size=8 in train.grad_accum=8 microbatches leaves a pair no other one",
    ),
    ({"data.batch_size": 1, "loss.sic.queue": 8, "loss.cmd.weight": 1.0}, "data.batch_size=1"),
    ({"loss.sic.weight": 0.0}, "are all 0; set one of them"),
    ({"train.grad_accum": 2, "train.grad_cache": 2}, "both cut the batch; set one of them to 1"),
    (
        {"loss.sim.weight": 1.0, "loss.sim.list_weight": 0.5},
        "loss.sim.list_weight=0.5 needs groups of look-alikes; set data.groups, e.g. to 8",
    ),
    ({"loss.sim.weight": 1.0, "loss.sim.teach_weight": 2.0}, "teach_weight=2 needs groups"),
    (
        {"loss.sim.weight": 1.0, "loss.sim.list_weight": 0.5, "loss.sim.list_over": "batch"},
        "loss.sim.list_over='batch' with model.match.kind='fusion' would read every pair",
    ),
    (
        {
            "loss.sim.weight": 1.0,
            "loss.sim.teach_weight": 0.5,
            "loss.sim.list_over": "batch",
            "model.match.kind": "both",
            "optim.freeze": ("fusion",),
        },
        "loss.sim.list_over='batch' with model.match.kind='both' would read every pair",
    ),
    ({"model.match.taps": 4}, "model.match.taps=4 is even; give an odd number, or 0"),
    ({"loss.cmd.weight": 1.0, "loss.cmd.source": "group"}, "loss.cmd.source='group' needs groups"),
    (
        {"loss.cmd.weight": 1.0, "loss.cmd.negative_weight": 0.5},
        "negative_weight=0.5 with model.image_head='cls', which does not embed a picture by the",
    ),
    (
        {
            "loss.cmd.weight": 1.0,
            "loss.cmd.negative_weight": 0.5,
            "loss.cmd.direction": "both",
            "model.image_head": "pool",
        },
        "loss.cmd.direction='both': noisy speech has no embedding",
    ),
    (
        {"loss.sic.weight": 0.0, "loss.cmd.weight": 1.0, "loss.cmd.negative_weight": 2.0},
        "loss.cmd.negative_weight=2 with loss.sic.weight=0: there is no contrast to join",
    ),
    (
        {
            "loss.sic.weight": 0.0,
            "loss.sim.weight": 1.0,
            "loss.sim.teach_weight": 1.0,
            "data.groups": 4,
            "init.model": "spoken-scenes",
        },
        "there is no contrast to teach; set loss.sic.weight",
    ),
    ({"model.attention": "cudnn"}, "'cudnn' computes in bfloat16, and model.dtype='float32'"),
]


def test_a_fusion_encoder_that_is_not_built_may_have_any_shape():
    fields = {"model.fusion.heads": 3, "loss.sim.weight": 1.0}
    for kind in ("pooled", "late"):
        check_config(tiny_config(**fields, **{"model.match.kind": kind}))
        with pytest.raises(UserError, match="does not divide model.fusion.width=32"):
            denoised = {"model.match.kind": kind, "loss.cmd.weight": 1.0}
            check_config(tiny_config(**fields, **denoised))


@pytest.fixture(scope="module")
def cfg():
    return tiny_config()


def refusal(cfg, fields) -> str:
    changed = cfg.copy_and_resolve_references()
    changed.update_from_flattened_dict(fields)
    with pytest.raises(UserError) as error:
        check_config(changed)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "value", "message"), ALONE)
def test_a_value_out_of_bounds_is_refused(cfg, name, value, message):
    said = refusal(cfg, {name: value})
    assert said.startswith(f"{name}={value!r}") and message in said


@pytest.mark.parametrize(("fields", "message"), TOGETHER)
def test_values_that_do_not_go_together_are_refused(cfg, fields, message):
    assert message in refusal(cfg, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 2**32 - 1},
        {"optim.learning_rate": 0.0, "optim.clip_norm": 0.0, "optim.weight_decay": 0.0},
        {"optim.freeze": ("speech", "(image|fusion)/.*")},
        {"data.buckets": (180, 1_600)},
        {"data.batch_size": 1, "loss.sic.queue": 8},
        {"data.batch_size": 2},
        {"model.attention": "cudnn", "model.dtype": "bfloat16"},
        {"model.attention": "flash"},
        {"model.image_head": "qformer", "model.qformer.projection": 16},
        # Parts that are not built may have any shape that is one.
        {"model.fusion.heads": 3},
        {"model.qformer.heads": 7},
        {"mesh.data": -1},
    ],
)
def test_what_can_be_meant_is_not_refused(cfg, fields):
    changed = cfg.copy_and_resolve_references()
    changed.update_from_flattened_dict(fields)
    check_config(changed)


def test_a_type_of_another_kind_is_refused(cfg):
    for name, value in (
        ("train.steps", True),
        ("data.normalize_wave", 1),
        ("optim.b1", "0.9"),
        ("optim.freeze", "speech"),
        ("data.corpus", None),
        ("model.speech.heads", 2.0),
    ):
        changed = cfg.copy_and_resolve_references()
        with changed.ignore_type():
            changed.update_from_flattened_dict({name: value})
        with pytest.raises(UserError, match=name):
            check_config(changed)


def test_numbers_of_numpy_are_numbers(cfg):
    import numpy as np

    changed = cfg.copy_and_resolve_references()
    with changed.ignore_type():
        changed.data.batch_size = np.int64(8)
        changed.optim.learning_rate = np.float32(1e-3)
    check_config(changed)


class FakeMesh:
    shape = {"data": 4, "fsdp": 2, "tensor": 1}


def test_a_device_that_mines_alone_needs_two_pairs(cfg):
    changed = cfg.copy_and_resolve_references()
    check_batch(changed, FakeMesh)
    changed.loss.sim.update(weight=1.0, mining="shard")
    with pytest.raises(UserError, match="loss.sim.mining='shard' leaves a device one pair of data"):
        check_batch(changed, FakeMesh)
    changed.data.batch_size = 16
    check_batch(changed, FakeMesh)
    changed.train.grad_accum = 2
    with pytest.raises(UserError, match="'shard' leaves a device one pair of data.batch_size=16"):
        check_batch(changed, FakeMesh)
    # GradCache cuts what is computed at once, not what is compared.
    changed.train.update(grad_accum=1, grad_cache=2)
    check_batch(changed, FakeMesh)
    changed.loss.sim.negatives = 2
    with pytest.raises(UserError, match="negatives=2: a pair has 1 others .*; give at most 1"):
        check_batch(changed, FakeMesh)
    changed.loss.sim.mining = "global"
    check_batch(changed, FakeMesh)
    changed.loss.sim.negatives = 16
    with pytest.raises(UserError, match="mining='global' and data.batch_size=16; give at most 15"):
        check_batch(changed, FakeMesh)


@pytest.mark.parametrize(
    "words",
    [
        "optim.learning_rate=-1",
        "data.buckets=abc",
        "loss.cmd.weight=nan",
        "optim.freeze=('(',)",
        "seed=99999999999999999999",
        "model.speech.heads=5",
        "train.steps=1e3",
    ],
)
def test_the_command_ends_with_status_2_and_one_line(words, tmp_path, capsys):
    arguments = ["--config=configs/demo.py", f"--config.{words}", f"--workdir={tmp_path}/run"]
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words.partition("=")[0] in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.speech.conv_stride", [0.5, 8], "model.speech.conv_stride=[0.5, 8]: must be"),
        ("model.speech.layers", -1, "model.speech.layers=-1"),
        ("model.speech.layers", 10**6, "model.speech.layers=1000000"),
        ("model.speech.pos_kernel", 10**6, "model.speech.pos_kernel=1000000"),
        ("model.head.heads", 1e30, "model.head.heads=1e+30: must be a whole number"),
        ("data.image_mean", [1e308, 0, 0], "data.image_mean=[1e+308, 0, 0]"),
        ("data.buckets", [3_200, NAN], "data.buckets=[3200, nan]"),
        ("data.buckets", [1], "the first is shorter than one frame of 180 samples"),
        ("data.image_size", 32, "data.image_size=32 differs from model.image.image_size=16"),
        ("model.image", 3, "there is no model.image.image_size; get the file again"),
        ("model.lod", 3, "model.lod is no field of this sir_jax; install the one that wrote it"),
    ],
)
def test_a_damaged_release_is_refused_before_a_model_is_built(cfg, path, value, message):
    plain = to_json(cfg)
    plain = {name: plain[name] for name in ("model", "data", "eval")}
    read_stored(plain, "release/config.json")
    *parents, last = path.split(".")
    target = plain
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(UserError) as error:
        read_stored(json.loads(json.dumps(plain)), "release/config.json")
    assert str(error.value).startswith("release/config.json: ") and message in str(error.value)
    assert upgrade(plain) == plain
