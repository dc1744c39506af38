"""The trace of `train.profile`: exactly these steps, after a restart, too, and named scopes."""

import gzip
import json
import os
import signal

import jax
import jax.numpy as jnp
import pytest
from shared_runs import filled_states
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.benchmarks.device.trace import TERMS, part_of, read_trace
from sir_jax.errors import UserError
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
    corpus = memory_corpus(8)
    # In a process that has run many tests, the profiler once kept none of so short a program's
    # instructions; a second look does.
    for workdir in (tmp_path / "first", tmp_path / "again"):
        loop.train(tiny_config(**RUN), workdir, None, corpus)
        assert traced(workdir) == [["3", "4", "5"]]
        out = capsys.readouterr().out
        assert f"steps 3 to 5 are traced; see `sir-jax bench trace {workdir}/profile`" in out
        try:
            trace = read_trace(workdir / "profile")
            break
        except UserError as error:
            why = error
    else:
        raise why
    assert trace.steps == 3
    shares = trace.shares(lambda path: part_of(path, TERMS))
    assert shares["loss.sim"] > 0 and shares["optim"] > 0
    # The run is told where its time went.
    assert "% in steps" in out and (workdir / FILE).exists()


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
