"""The trace of `train.profile`: exactly these steps, after a restart, too, and named scopes."""

import gzip
import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from shared_runs import filled_states
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.benchmarks.device.trace import TERMS, part_of, read_trace
from sir_jax.runtime.interrupt import Interrupted
from sir_jax.training import loop
from sir_jax.training.instruments.goodput import FILE
from sir_jax.training.setup import Setup
from sir_jax.training.step import bucket_length

RUN = {"data.buckets": (6_400,), "train.profile": (2, 3)}


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """Let runs learn nothing, by a program with scopes that compiles at once."""

    def step(state, batch):
        with jax.named_scope("sim"):
            loss = jnp.sin(batch["wave"]).sum()
        with jax.named_scope("optimizer"):
            norm = jnp.sqrt(jnp.square(batch["pixels"]).sum())
        metrics = {"train/loss": loss, "train/grad_norm": norm, "train/finite": jnp.ones(())}
        return state.replace(step=state.step + 1), metrics

    def compile_steps(setup):
        batch = setup.batch_shapes(setup.cfg.data.buckets[0])
        return {bucket_length(batch): jax.jit(step).lower(setup.abstract, batch).compile()}

    monkeypatch.setattr(Setup, "compile_steps", compile_steps)
    with filled_states():
        yield


def traced(workdir):
    """Return the numbers of the steps in each trace of a run, the oldest trace first."""
    found = []
    for path in sorted((workdir / "profile").rglob("*.trace.json.gz")):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        found.append([e["args"]["step_num"] for e in events if e.get("name") == "train"])
    return found


def test_exactly_these_steps_are_traced_and_only_once(tmp_path, capsys):
    loop.train(tiny_config(**RUN), tmp_path, None, memory_corpus(8))
    assert traced(tmp_path) == [["3", "4", "5"]]
    out = capsys.readouterr().out
    assert f"steps 3 to 5 are traced; see `sir-jax bench trace {tmp_path}/profile`" in out
    (program,) = (tmp_path / "profile" / "programs").iterdir()
    text = gzip.decompress(program.read_bytes()).decode()
    assert text.startswith("HloModule jit_step") and "jit(step)/sim/sin" in text
    # The run is told where its time went.
    assert "% in steps" in out and (tmp_path / FILE).exists()


def test_what_is_traced_can_be_read(tmp_path):
    # In a process of its own: after thousands of tests the profiler at times keeps no instruction.
    code = f"""
import jax, jax.numpy as jnp, pathlib
from sir_jax.training.instruments import profile

def step(x):
    with jax.named_scope("sim"):
        loss = jnp.sin(x).sum()
    with jax.named_scope("optimizer"):
        return loss, jnp.sqrt(jnp.square(x).sum())

x, folder = jnp.ones(1_000_000), pathlib.Path({str(tmp_path)!r})
program = jax.jit(step).lower(x).compile()
profile.start_trace(folder)
for number in range(3):
    with profile.step_mark(number):
        jax.block_until_ready(program(x))
profile.stop_trace(folder, [program])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    trace = read_trace(tmp_path)
    assert trace.steps == 3
    shares = trace.shares(lambda path: part_of(path, TERMS))
    assert shares["loss.sim"] > 0 and shares["optim"] > 0


def test_a_run_that_goes_on_within_the_stretch_traces_the_rest(tmp_path, monkeypatch):
    corpus, take_step = memory_corpus(8), loop.take_step

    def take_step_then_signal(run, *rest):
        out = take_step(run, *rest)
        if out.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", take_step_then_signal)
        with pytest.raises(Interrupted):
            loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    assert traced(tmp_path) == [["3"]]
    loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    # Traces are named by the second.
    assert sorted(sum(traced(tmp_path), []))[-2:] == ["4", "5"]
    sums = json.loads((tmp_path / FILE).read_text())
    assert (sums["restarts"], sums["steps_again"]) == (1, 0)
    assert sums["seconds"]["lost"] > 0 and sums["seconds"]["save"] > 0


def test_a_run_that_has_passed_the_stretch_traces_nothing(tmp_path):
    loop.train(tiny_config(**RUN, **{"train.steps": 2}), tmp_path, None, memory_corpus(8))
    assert not (tmp_path / "profile").exists()
