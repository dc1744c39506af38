"""The encoder benchmark: a run with tiny encoders; different outputs are refused."""

import json
import subprocess
import sys

import pytest

from sir_jax.benchmarks import encoders
from sir_jax.benchmarks.timing import OtherLoad, Times, cpu_seconds, interleave
from sir_jax.errors import UserError
from sir_jax.models import HubertSpec, VitSpec

TINY = {
    "hubert-tiny": (
        HubertSpec(
            width=32,
            layers=1,
            heads=2,
            mlp_width=48,
            conv_width=(16,) * 7,
            pos_kernel=16,
            pos_groups=4,
        ),
        2,
        2,
    ),
    "clip-tiny": (VitSpec(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=48), 2, 2),
    "blip2-tiny": (
        VitSpec(
            image_size=16,
            patch=8,
            width=32,
            layers=1,
            heads=2,
            mlp_width=48,
            activation="gelu",
            epsilon=1e-6,
            form="blip2",
        ),
        2,
        2,
    ),
}


@pytest.fixture
def tiny_cases(monkeypatch):
    monkeypatch.setattr(encoders, "CASES", TINY)


def test_every_pass_has_a_row_with_the_ratio_of_medians(tiny_cases, tmp_path, capsys):
    path = tmp_path / "table.json"
    encoders.main(
        [
            "--cases=hubert-tiny,clip-tiny,blip2-tiny",
            "--rounds=2",
            "--seconds=0.2",
            "--no-compile",
            f"--json={path}",
        ]
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line[0] in TINY]
    assert [row[0] for row in rows] == [name for name in TINY for _ in range(2)]
    assert [row[2] for row in rows] == ["forward", "fwd+bwd"] * 3
    for row, record in zip(rows, json.loads(path.read_text()), strict=True):
        medians = {name: times[0] for name, times in record["seconds"].items()}
        assert medians.keys() == {"ours", "eager", "sdpa"}
        ratio = medians["ours"] / min(medians["eager"], medians["sdpa"])
        assert record["ratio"] == pytest.approx(ratio)
        assert float(row[7]) == pytest.approx(ratio, abs=0.006)


def test_different_outputs_are_not_timed(tiny_cases, monkeypatch):
    make_peer = encoders.make_peer

    def other_weights(spec, dtype, folder):
        model = make_peer(spec, dtype, folder)
        model.post_layernorm.weight.data += 1.0
        model.encoder.layers[0].mlp.fc1.bias.data += 1.0
        return model

    monkeypatch.setattr(encoders, "make_peer", other_weights)
    with pytest.raises(UserError, match="blip2-tiny: outputs differ by"):
        encoders.main(["--cases=blip2-tiny", "--rounds=1", "--no-compile"])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no case 'hubert'"):
        encoders.main(["--cases=hubert"])
    with pytest.raises(UserError, match="--rounds"):
        encoders.main(["--rounds=0"])
    with pytest.raises(UserError, match="--attention=cudnn on cpu in bfloat16: it needs an NVIDIA"):
        encoders.main(["--attention=cudnn", "--dtype=bfloat16"])


def test_rounds_are_interleaved_after_one_untimed_call():
    calls = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert times.keys() == {"a", "b"} and all(t.best <= t.median for t in times.values())


def test_ratio_divides_by_the_fastest_peer():
    times = {"ours": Times(3.0, 2.0), "eager": Times(6.0, 5.0), "sdpa": Times(4.0, 4.0)}
    row = encoders.Row("x", "1 x 1 s", "forward", times, 1.0)
    assert (row.ratio("median"), row.ratio("best")) == (0.75, 0.5)


def test_cpu_time_counts_children_and_this_process():
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()"
    before = cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"done\n"
        assert cpu_seconds() - before >= 0.45
        child.communicate(b"\n")
    assert cpu_seconds() - before >= 0.45


def test_own_work_does_not_count_as_load_of_others(monkeypatch):
    # Elapsed seconds, CPU seconds of the whole machine, CPU seconds of this process.
    readings = iter([(100.0, 50.0, 7.0), (110.0, 62.0, 16.0), None])
    monkeypatch.setattr(OtherLoad, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    load = OtherLoad()
    assert load.share() == pytest.approx((12.0 - 9.0) / (10.0 * 2))
    assert load.share() is None  # a system that does not report its load
