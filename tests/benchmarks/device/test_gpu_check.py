"""The check of a GPU: its parts at small size on a CPU; a part that fails loses no other."""

import json
import os
import subprocess
import sys
from unittest.mock import MagicMock

import jax.numpy as jnp
import pytest
from launch_helpers import ROOT

from sir_jax.benchmarks import encoders as peers
from sir_jax.benchmarks.device import check_layers, check_runs, gpu_check
from sir_jax.benchmarks.step import Cost
from sir_jax.benchmarks.timing import Times


def shell(text):
    return lambda name, small: ["sh", "-c", text[name]]


def test_what_fails_or_hangs_loses_neither_its_rows_nor_other_parts(tmp_path, monkeypatch, capsys):
    commands = {
        "device": """echo '{"case": "a card", "GiB": 79.5}'; echo '{"case": "torn'""",
        "parity": """echo '{"case": "one", "least cosine": 0.5, "error": "it differs"}'""",
        "attention": """echo '{"case": "two", "ms": 1234.5678}'; echo boom >&2; exit 3""",
        "step": """echo '{"case": "three", "ms": 1.0}'; sleep 60""",
        "search": "echo never",
    }
    monkeypatch.setattr(gpu_check, "PARTS", dict.fromkeys(commands, 30) | {"step": 5, "search": 4})
    monkeypatch.setattr(gpu_check, "WHOLE", 20)
    watch = gpu_check.watch
    limits = {"step": 0.3}
    monkeypatch.setattr(
        gpu_check, "watch", lambda name, c, limit, out: watch(name, c, limits.get(name, limit), out)
    )
    assert not gpu_check.check(list(commands), False, tmp_path, shell(commands))
    found = json.loads((tmp_path / "check.json").read_text())
    assert [part["failed"] for part in found.values()] == [
        "",
        "",
        "ended with status 3: boom",
        "stopped after 0 s",
        "no time was left",
    ]
    assert found["device"]["rows"] == [{"case": "a card", "GiB": 79.5}]
    assert found["step"]["rows"] == [{"case": "three", "ms": 1.0}]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["device", "a", "card", "GiB", "79.5"]
    assert lines[2] == ["attention", "two", "ms", "1235"]
    good = {"device": commands["device"]}
    assert gpu_check.check(["device"], False, tmp_path, shell(good))


def cases(rows):
    return {row.pop("case"): row for row in rows}


def test_layers_at_small_size():
    parity = cases(check_layers.parity(True))
    assert len(parity) == 2 * 3 and not any("error" in row for row in parity.values())
    assert parity["clip-tiny, float32 by the CPU"]["largest error"] == 0
    assert 1e-4 < parity["hubert-tiny, bfloat16, xla"]["largest error"] < 0.1
    for row in cases(check_layers.attention(True)).values():
        # Without a GPU both are XLA's.
        assert row["difference"] == 0 and row["xla ms"] > 0 and row["cudnn ms"] > 0
    convolutions = cases(check_layers.convolutions(True))
    assert len(convolutions) == 2 * 2 * 2 * 2
    for name, row in convolutions.items():
        assert "error" not in row, (name, row)
        assert row.get("difference", 0) < (0.05 if "bfloat16" in name else 1e-5), name


def test_a_part_that_differs_or_fails_has_its_error_in_its_row():
    worse = check_layers._compare(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]]))
    assert worse["error"].startswith("a token differs")
    assert "error" in check_layers._compare(jnp.array([[jnp.nan, 0.0]]), jnp.array([[1.0, 1.0]]))

    def broken():
        raise RuntimeError("no algorithm worked!\nmore")

    row = check_layers.attempt("conv", broken)
    assert row == {"case": "conv", "error": "RuntimeError: no algorithm worked!"}


def test_search_gives_the_rows_of_the_cpu(monkeypatch):
    rows = cases(check_runs.search(True))
    assert list(rows)[0] == "1 queries of 2,000 x 32"
    assert all(row["ms"] > 0 and "error" not in row for row in rows.values())
    search = check_runs.exact_search
    monkeypatch.setattr(
        check_runs,
        "exact_search",
        lambda *args, device, **more: search(*args, device="cpu")._replace(
            rows=search(*args, device="cpu").rows + (device == "cpu")
        ),
    )
    assert all("error" in row for row in check_runs.search(True))


def test_step_and_terms(monkeypatch):
    """Steps are made up here: what compiles them is what `sir-jax bench step` uses."""
    built = []

    def build_step(cfg, samples):
        built.append((cfg.model.attention, samples, cfg.loss.sim.weight, cfg.model.speech.layers))

        def run():
            run.metrics = {"train/loss": 2.5 if len(built) < 8 else float("nan")}

        return run, lambda times: Cost("", times, 2**20, 2**31, 1.0)

    monkeypatch.setattr(check_runs, "build_step", build_step)
    monkeypatch.setattr(check_runs, "step_flops", lambda setup, samples: 6e9)
    monkeypatch.setattr(check_runs, "prepare", lambda cfg, mesh: None)
    monkeypatch.setattr(peers, "gemm_rate", lambda dtype: 1e12)
    monkeypatch.chdir(ROOT)
    rows = cases(check_runs.step(True))
    assert list(rows) == ["unified, cudnn", "unified, xla"]
    for row in rows.values():
        assert row["TFLOP/s"] == pytest.approx(6e9 / (row["ms"] / 1e3) / 1e12)
        assert row["% of product"] == pytest.approx(100 * row["TFLOP/s"])
        assert (row["train/loss"], row["GiB planned"]) == (2.5, 2)
    terms = cases(check_runs.terms(True))
    assert list(terms) == [
        "contrastive",
        "+ queue",
        "+ distillation",
        "+ SIM",
        "+ CMD of image",
        "all",
    ]
    assert terms["contrastive"]["train/loss"] == 2.5
    assert terms["all"]["error"] == "the loss is not finite"
    assert [sim for *_, sim, _ in built[2:]] == [0, 0, 0, 1, 0, 1]
    assert [one[0] for one in built[:2]] == ["cudnn", "xla"] and built[2][3] == 2


def test_encoders_beside_torch_or_a_line_that_says_why_not(monkeypatch):
    times = {"ours": Times(0.2, 0.2), "sdpa": Times(0.4, 0.4)}
    row = peers.Row("hubert-base", "2x5s", "forward", times, 4e11)
    monkeypatch.setattr(peers, "bench_case", lambda case, args: [row])
    monkeypatch.setitem(sys.modules, "torch", MagicMock())
    monkeypatch.setitem(sys.modules, "transformers", MagicMock())
    (found,) = check_runs.encoders(True)
    assert (found["ours / best"], found["TFLOP/s"]) == (0.5, 2.0)
    monkeypatch.setitem(sys.modules, "torch", None)
    (found,) = check_runs.encoders(False)
    assert "torch" in found["skipped"]


# Every part in a process of its own, with real train steps: minutes.
@pytest.mark.release
def test_the_script_at_small_size(tmp_path):
    env = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(ROOT / "launch/gpu_check.sh"), "--small", f"--out={tmp_path}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1_100)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "check.json").read_text())
    assert list(found) == list(gpu_check.PARTS)
    assert all(part["rows"] and not part["failed"] for part in found.values())
