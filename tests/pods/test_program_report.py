"""Checks of programs by the TPU compiler, and the reports and tables of their results."""

import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from sir_jax.cli import pods as verbs
from sir_jax.config.command_line import load_config
from sir_jax.errors import UserError
from sir_jax.pods import program_report, programs
from sir_jax.pods.collectives import Collective
from sir_jax.pods.expected import Expected, expected_traffic
from sir_jax.pods.survey import (
    BEGIN,
    END,
    check_config,
    declared,
    program_digest,
    split_page,
    table,
)
from sir_jax.pods.topology import GIB, Topology
from sir_jax.training.setup import prepare
from sir_jax.training.step import OVERLAP

V5E = Topology.parse("v5e:2x4")
TWO_SLICES = Topology.parse("2*v5e:2x4")


def reduced(name: str):
    """Return a config with narrow encoders of two scanned layers and a fusion encoder of one."""
    cfg = load_config(f"configs/{name}.py:runlocal")
    cfg.data.batch_size = 64
    cfg.loss.sic.queue = 136 if cfg.loss.sic.queue else 0
    cfg.model.speech.layers = cfg.model.image.layers = 2
    cfg.model.qformer.layers = cfg.model.fusion.layers = 1
    cfg.model.scan = True
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "topology"),
    [
        pytest.param("coarse_to_fine", V5E, marks=pytest.mark.release),
        pytest.param("unified", V5E, marks=pytest.mark.release),
        pytest.param("unified", TWO_SLICES, marks=pytest.mark.release),
        pytest.param("cmd", TWO_SLICES, marks=pytest.mark.release),
    ],
)
def test_reduced_depth(name, topology):
    compile_and_check(reduced(name), topology, samples=67_000)


def test_one_layer_over_both_kinds_of_network():
    cfg = reduced("cmd")
    cfg.model.speech.layers = cfg.model.image.layers = 1
    cfg.model.scan = False
    # Random numbers are sent nowhere, and are a large part of what is compiled.
    cfg.model.head.dropout = cfg.model.fusion.dropout = 0.0
    compile_and_check(cfg, TWO_SLICES, samples=24_000)


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_full_size():
    # In another process, whose memory is freed when it ends.
    words = (
        "pods check --config=configs/hubert_base_clip_b32.py --topology=v5e:2x4 --programs=train "
        "--samples=32000 --config.model.scan=true"
    )
    code = f"import sys; from sir_jax.cli.main import main; sys.exit(main({words.split()}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "8 chips, mesh data 8 x fsdp 1 x tensor 1, batch 256, clips of 2 s" in out.stdout
    sent = re.search(r"sends ([\d.]+) MB of whole arrays a step; expected ([\d.]+) MB", out.stdout)
    assert float(sent[1]) == pytest.approx(float(sent[2]), rel=0.1)


def compile_and_check(cfg, topology: Topology, samples: int) -> None:
    """Check that a train step fits, does not move the queue, and sends the expected bytes."""
    setup = prepare(cfg, topology.mesh(cfg.mesh))
    program = programs.train_program(setup, samples)
    report = program_report.check_program(program, program.lower(), topology, setup.mesh)
    assert program_report.problems(setup, report, topology) == []
    assert 0 < report.peak < 0.9 * topology.chip.hbm
    expected = expected_traffic(setup, samples).total
    sent = sum(one.payload * one.times for one in report.collectives)
    assert sent == pytest.approx(expected, rel=0.1)
    bound = program_report.roofline(report, topology)
    assert 0 < bound.utilisation < 1 and (bound.dcn > 0) == (topology.slices > 1)


def test_on_two_slices_a_gradient_is_sent_twice():
    cfg = reduced("cmd")
    one, two = (
        expected_traffic(prepare(cfg, topology.mesh(cfg.mesh)), 46_000)
        for topology in (V5E, TWO_SLICES)
    )
    assert two == one._replace(gradients=2 * one.gradients) and one.gradients > 0


def test_the_compiler_knows_the_flags_of_overlap():
    flags = {name: value for name, (value, _) in OVERLAP["tpu"].items()}
    mesh = V5E.mesh(load_config("configs/cmd.py").mesh)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=rows)
    jax.jit(jnp.sum).lower(x).compile(flags)


def test_explain_tells_what_a_step_should_send(capsys):
    words = "--config=configs/unified.py:runlocal --topology=v5e:2x4 --config.data.batch_size=64"
    shard = "--config.loss.sim.mining=shard --config.loss.cmd.source=shard --config.data.groups=8"
    lines = []
    for options in (words, f"{words} {shard}"):
        assert verbs.explain(options.split()) == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    parts = [line.partition("MB: ")[2].split(", ") for line in lines]
    everywhere, in_shards = (dict(part.rsplit(" ", 1) for part in line) for line in parts)
    assert float(everywhere["tokens"]) > 0 == float(in_shards["tokens"])
    assert everywhere["gradients"] == in_shards["gradients"]
    sent = Expected(2_000_000, 100_000, 0, 0, 0, 0)
    assert sent.text.startswith("2.1 MB: gradients 2.0, embeddings 0.1, tokens 0.0, ")


def test_a_program_that_does_not_fit_is_refused():
    mesh = V5E.mesh(load_config("configs/cmd.py").mesh)
    jitted = jax.jit(lambda x: jnp.cumsum(jnp.outer(x, x), axis=1)[::7].sum(0))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x = jax.ShapeDtypeStruct((90_000,), jnp.float32, sharding=replicated)
    with pytest.raises(UserError, match=r"big does not fit on v5e:2x4: needs [\d.]+G of [\d.]+G"):
        program_report.check_program(
            programs.Program("big", jitted, (x,)), jitted.lower(x), V5E, mesh
        )


def report(**changes) -> program_report.Report:
    """Return a report of round numbers, with some of them changed."""
    one = Collective("all-reduce", ("data",), 16, 400_000_000, 1, "f32[100]")
    made = program_report.Report("train", 2 * GIB, 3 * GIB, 0, GIB, 19.7e12, 82e9, (one,), 5.0)
    return dataclasses.replace(made, **changes)


def test_roofline():
    bound = program_report.roofline(report(), Topology.parse("v5e:4x4"))
    assert bound.compute == pytest.approx(0.1) and bound.memory == pytest.approx(0.1)
    # In an all-reduce on a ring of 16, each chip sends 2 x 15 / 16 of the array.
    assert bound.ici == pytest.approx(2 * 15 / 16 * 0.4e9 / 200e9)
    assert bound.dcn == 0
    assert bound.utilisation == pytest.approx(0.1 / (0.1 + 0.00375))
    two = program_report.roofline(report(), Topology.parse("2*v5e:2x4"))
    # Each of the 8 chips of a slice sends an eighth, at a quarter of its host's rate.
    assert two.dcn == pytest.approx(2 * 15 / 16 * 0.4e9 / 8 / (25e9 / 4))


def test_a_full_chip_and_a_moved_queue_are_problems():
    cfg = reduced("unified")
    setup = prepare(cfg, V5E.mesh(cfg.mesh))
    assert program_report.problems(setup, report(), V5E) == []
    (full,) = program_report.problems(setup, report(temporaries=12 * GIB), V5E)
    assert "train takes 15.0 of 16 GiB on v5e:2x4, more than 90%" in full
    queue = Collective("all-gather", ("data",), 8, 136 * 256 * 4, 1, "f32[136,256]")
    (moved,) = program_report.problems(setup, report(collectives=(queue,)), V5E)
    assert moved == "train: all-gather moves the queue: f32[136,256]"


def test_table_and_its_marks(tmp_path):
    fields = dataclasses.asdict(report()) | {
        "peak": report().peak,
        "step_ms": 104.0,
        "utilisation": 0.96,
        "by_hand_total": 390_000_000,
        "traffic": [{}, {}, {"losses": 25_000_000_000, "queue": 15_000_000_000}],
    }
    good = {"batch": 256, "problems": [], "programs": {"train": fields}}
    bad = {"batch": 4096, "problems": ["train does not fit"], "programs": {}}
    topology = Topology.parse("v5e:4x4")
    lines = table([("configs/cmd.py:pod=x", topology, good), ("a.py:", topology, bad)]).split("\n")
    assert lines[2] == (
        "| `cmd` | v5e:4x4 | 16 | 256 | 6.0 of 16 | 37.5 % | 82, 40 | 0.40 | 0.39 | 104 | 96 % "
        "|  | 5 |"
    )
    assert "train does not fit" in lines[3]
    assert len({line.count("|") for line in lines}) == 1
    page = tmp_path / "page.md"
    page.write_text(f"a\n{BEGIN}\nold\n{END}\nb\n")
    assert split_page(page) == ("a\n", "\nb\n")
    page.write_text("a")
    with pytest.raises(UserError, match="has no lines"):
        split_page(page)


def test_a_program_that_lowers_to_the_same_text_is_not_compiled_again():
    setup = prepare(reduced("cmd"), V5E.mesh(reduced("cmd").mesh))
    both = programs.select_programs(setup, ("embed",), 46_000)
    kept = {
        one.name: {"text": program_digest(one.lower().as_text(), V5E), "peak": 1, "problems": []}
        for one in both
    }
    known = {fields["text"]: fields for fields in kept.values()}
    assert check_config(setup, V5E, ("embed",), 46_000, known)["programs"] == kept
    other = program_digest(both[0].lower().as_text(), Topology.parse("v5e:4x4"))
    assert other != kept[both[0].name]["text"] != kept[both[1].name]["text"]


def test_every_declared_slice_is_a_config():
    from pathlib import Path

    pods = declared(Path("configs"))
    generations = {topology.generation for _, topology in pods}
    chips = [topology.chips for _, topology in pods]
    assert generations == {"v4", "v5e", "v5p", "v6e"} and min(chips) == 8 and max(chips) == 256
    assert {Path(spec.partition(":")[0]).stem for spec, _ in pods} == {
        "cmd",
        "coarse_to_fine",
        "unified",
    }
    for spec, topology in pods:
        cfg = load_config(spec)
        # On two v5e slices the larger configs have smaller batches.
        a_chip = {"coarse_to_fine": 8, "unified": 12}.get(Path(spec.partition(":")[0]).stem, 16)
        a_chip = a_chip if topology.name == "2*v5e:4x4" else 16
        assert cfg.data.batch_size == a_chip * topology.chips
        assert (cfg.loss.sim.mining == "shard") == (topology.chips > 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check --config=configs/cmd.py", "give --topology"),
        ("check --config=configs/cmd.py --topology=v5e:4x4 --programs=a", "no 'a'; choose among"),
        ("check --config=configs/cmd.py --topology=v5e:4x4 --slices=x", "--slices='x'"),
        ("check --all --slices=2", "--slices=2: --all stands alone"),
        (
            "explain --config=configs/cmd.py --topology=v5e:4x4 --config.data.batch_size=7",
            "data.batch_size=7 must be a multiple of 16",
        ),
        ("explain --config=configs/cmd.py:pod=v3 --topology=v5e:4x4", "pod='v3' is none of"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        verb, *options = words.split()
        getattr(verbs, verb)(options)
