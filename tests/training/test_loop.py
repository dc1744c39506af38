"""The training loop: order of operations, resumption, non-finite steps, announcements."""

import json
import os
import signal
import threading

import jax
import numpy as np
import pytest
from shared_runs import shared_programs
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.errors import UserError
from sir_jax.evaluation.evaluate import make_evaluate
from sir_jax.inference.workdirs import restore_params
from sir_jax.runtime.interrupt import Interrupted
from sir_jax.runtime.sharding import make_mesh
from sir_jax.runtime.workdir import BEST_METRIC
from sir_jax.training import loop
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.metrics import JSONL, read_records
from sir_jax.training.setup import describe, prepare

RUN = {"data.buckets": (6_400,), "train.eval_every": 4, "train.checkpoint_every": 3}


@pytest.fixture(autouse=True, scope="module")
def programs():
    with shared_programs():
        yield


@pytest.fixture(scope="module")
def corpus():
    return memory_corpus()


def sequence(workdir):
    """Return all records without the fields that depend on the clock."""
    return [
        {name: value for name, value in record.items() if not name.startswith("perf/")}
        for record in read_records(workdir / JSONL)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    """Return the workdir and the result of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(tiny_config(**RUN), workdir, make_evaluate(corpus), corpus)


def test_run_logs_every_step_and_evaluates_before_the_next(whole):
    workdir, result = whole
    records = sequence(workdir)
    assert [(r["step"], "val" if BEST_METRIC in r else "train") for r in records] == [
        (1, "train"),
        (2, "train"),
        (3, "train"),
        (4, "train"),
        (4, "val"),
        (5, "train"),
        (6, "train"),
        (6, "val"),
    ]
    assert result["train/loss"] == records[-2]["train/loss"]
    assert result[BEST_METRIC] == records[-1][BEST_METRIC]
    assert all(np.isfinite(v) for r in records for v in r.values())
    with_perf = read_records(workdir / JSONL)
    assert with_perf[0]["perf/examples_per_s"] > 0
    assert any(p.name.startswith("events.") for p in (workdir / "tensorboard").iterdir())
    opened = Checkpoints(workdir, read_only=True)
    scores = {r["step"]: r[BEST_METRIC] for r in records if BEST_METRIC in r}
    assert opened.last == 6
    assert opened.best == (4 if scores[4] >= scores[6] else 6)
    opened.close()


def test_finished_run_is_left_as_it_is(whole, corpus, capsys):
    workdir, result = whole
    before = (workdir / JSONL).read_text()
    again = loop.train(tiny_config(**RUN), workdir, make_evaluate(corpus), corpus)
    assert again == {name: x for name, x in result.items() if name != "train/loss"}
    assert (workdir / JSONL).read_text() == before
    assert "at its last step 6 already" in capsys.readouterr().out


# Step 4 is stopped at within its evaluation, at each change, below.
@pytest.mark.parametrize("stop_after", [3, pytest.param(4, marks=pytest.mark.release)])
def test_stopped_by_sigterm_and_resumed_gives_the_same_records(
    whole, corpus, tmp_path, monkeypatch, stop_after
):
    """Step 3 is saved anyway; step 4 has an evaluation, which the next process must make."""
    taken, take_step = [], loop.take_step

    def take_step_then_signal(*args):
        out = take_step(*args)
        taken.append(out.step)
        if out.step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    monkeypatch.setattr(loop, "take_step", take_step_then_signal)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM at step {stop_after} of 6"):
        loop.train(tiny_config(**RUN), tmp_path, make_evaluate(corpus), corpus)
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.undo()
    loop.train(tiny_config(**RUN), tmp_path, make_evaluate(corpus), corpus)
    assert taken[-1] == stop_after
    assert sequence(tmp_path) == sequence(whole[0])
    for a, b in zip(
        *(jax.tree.leaves(restore_params(d, "last")[1]) for d in (tmp_path, whole[0])), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_sigterm_ends_an_evaluation_and_the_next_run_makes_it(whole, corpus, tmp_path):
    def slow_evaluation(params, model, cfg):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on after the signal")

    with pytest.raises(Interrupted, match="stopped by SIGTERM at step 4 of 6"):
        loop.train(tiny_config(**RUN), tmp_path, slow_evaluation, corpus)
    loop.train(tiny_config(**RUN), tmp_path, make_evaluate(corpus), corpus)
    assert sequence(tmp_path) == sequence(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [pytest.param((8, 1, 1), marks=pytest.mark.release), (2, 2, 2)])
def test_losses_do_not_depend_on_the_mesh(whole, corpus, tmp_path, mesh):
    sizes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh, strict=True))
    loop.train(tiny_config(**RUN, **sizes), tmp_path, None, corpus)
    ours, theirs = ([r for r in sequence(d) if "train/loss" in r] for d in (tmp_path, whole[0]))
    assert len(ours) == 6
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a["train/loss"], b["train/loss"], atol=1e-5, rtol=0)


# At each change: two processes gone on with as one, in runtime/test_distributed.py.
@pytest.mark.release
def test_run_resumes_on_another_mesh(whole, corpus, tmp_path, capsys):
    first = tiny_config(**RUN)

    def stop(params, model, cfg):
        os.kill(os.getpid(), signal.SIGTERM)
        return make_evaluate(corpus)(params, model, cfg)

    with pytest.raises(Interrupted):
        loop.train(first, tmp_path, stop, corpus)
    loop.train(tiny_config(**RUN, **{"mesh.data": 8}), tmp_path, make_evaluate(corpus), corpus)
    assert "another setting: mesh.data is 1 there and 8 here" in capsys.readouterr().out
    ours, theirs = ([r for r in sequence(d) if "train/loss" in r] for d in (tmp_path, whole[0]))
    assert [r["step"] for r in ours] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(
        [r["train/loss"] for r in ours], [r["train/loss"] for r in theirs], atol=1e-5, rtol=0
    )


def test_non_finite_step_stops_by_name_and_keeps_the_good_checkpoint(
    whole, corpus, tmp_path, monkeypatch
):
    drawn = []

    def poisoned(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            drawn.append(batch["caption_ids"].tolist())
            if len(drawn) == 3:
                batch["pixels"][0] = np.nan
            yield batch

    train_batches = loop.train_batches
    monkeypatch.setattr(loop, "train_batches", poisoned)
    with pytest.raises(UserError) as error:
        loop.train(tiny_config(**RUN | {"train.checkpoint_every": 1}), tmp_path, None, corpus)
    ids = ", ".join(map(str, drawn[2]))
    assert str(error.value).startswith("step 3 is not finite: loss nan")
    assert f"caption ids of its batch: {ids} (also in" in str(error.value)
    assert "the checkpoint of step 2 is good" in str(error.value)
    assert json.loads((tmp_path / "nonfinite_0.json").read_text())["caption_ids"] == drawn[2]
    assert [r["step"] for r in read_records(tmp_path / JSONL)] == [1, 2]
    _, params = restore_params(tmp_path, "last")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_non_finite_step_between_saves_is_found_one_step_later(
    whole, corpus, tmp_path, monkeypatch
):
    drawn = []

    def poisoned(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            drawn.append(1)
            if len(drawn) == 2:
                batch["pixels"][0] = np.inf
            yield batch

    train_batches = loop.train_batches
    monkeypatch.setattr(loop, "train_batches", poisoned)
    with pytest.raises(UserError, match="step 2 is not finite.*no checkpoint was written yet"):
        loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    # A step is checked while the next one runs, so that the devices stay busy.
    assert len(drawn) == 3


def test_bad_configs_stop_before_anything_is_written(corpus, tmp_path, monkeypatch):
    cases = [
        ({"data.batch_size": 12, "mesh.data": 8}, "data.batch_size=12 must be a multiple of 8.*8$"),
        ({"train.grad_accum": 3}, "data.batch_size=8 must be a multiple of 3 = train.grad_accum 3"),
        ({"optim.freeze": ("speach",)}, "optim.freeze: 'speach' matches no parameter"),
        ({"optim.no_decay": ("x",)}, "optim.no_decay: 'x' matches no parameter"),
        ({"train.steps": 0}, "train.steps=0: must be a whole number from 1"),
        ({"data.buckets": (6_400, 3_200)}, "data.buckets"),
        ({"data.image_size": 32}, "data.image_size=32 differs from model.image.image_size=16"),
        ({"mesh.fsdp": 3, "mesh.data": 3}, "needs 9 devices and there are 8"),
        ({"data.batch_size": 56}, "data.batch_size=56: more than the 48 captions of split 'train'"),
        ({"init.speech": "owner/absent"}, "owner/absent is no directory here, and is not in the"),
    ]
    # Nor is anything compiled, which takes minutes where a model is large.
    monkeypatch.setattr(jax, "jit", lambda *args, **rest: pytest.fail("something is compiled"))
    for fields, message in cases:
        with pytest.raises(UserError, match=message):
            loop.train(tiny_config(**fields), tmp_path / "run", None, corpus)
    assert not (tmp_path / "run").exists()


def test_the_set_up_is_described(capsys):
    fields = {"train.grad_accum": 2, "mesh.fsdp": 8, "optim.freeze": ("image",)}
    cfg = tiny_config(**fields, **{"data.batch_size": 16})
    setup = prepare(cfg, make_mesh(cfg.mesh))
    abstract = setup.abstract
    abstract.params["image"]["position"] = jax.ShapeDtypeStruct((5, 30), np.float32)
    describe(setup)
    out = capsys.readouterr().out
    frozen = sum(leaf.size for leaf in jax.tree.leaves(abstract.params["image"]))
    assert f" trainable, {frozen:,} frozen" in out
    assert "mesh: data 1 x fsdp 8 x tensor 1 on 8 of 8 cpu devices" in out
    assert "replicated: axis 1 of image/position[5, 30] is not a multiple of fsdp=8" in out
    assert (
        "2 programs, one a length bucket: wave[16,3200], wave[16,6400]; each with pixels[16," in out
    )
    assert "train.grad_accum=2: a gradient is the mean over 2 microbatches of 8; a caption's" in out
    assert "negatives come from its own microbatch only, so it sees 7 other pairs, not 15" in out


def test_next_batch_is_on_its_way_before_a_step_is_waited_for(corpus, tmp_path, monkeypatch):
    """Double buffering: batch and step n + 1 are dispatched before the wait for step n."""
    events, place, settle = [], loop.sharding.place_batch, loop.settle

    def noted_place(batch, mesh):
        events.append(("placed", 1 + sum(event == "placed" for event, _ in events)))
        return place(batch, mesh)

    def noted_settle(run, pending, *rest):
        if pending is not None:
            events.append(("waited", pending.step))
        return settle(run, pending, *rest)

    monkeypatch.setattr(loop.sharding, "place_batch", noted_place)
    monkeypatch.setattr(loop, "settle", noted_settle)
    loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    # The save at step 3 waits for all steps; between saves the next batch goes first.
    assert events == [
        ("placed", 1),
        ("placed", 2),
        ("waited", 1),
        ("placed", 3),
        ("waited", 2),
        ("waited", 3),
        ("placed", 4),
        ("placed", 5),
        ("waited", 4),
        ("placed", 6),
        ("waited", 5),
        ("waited", 6),
    ]


def test_no_thread_of_the_pipeline_outlives_the_loop(corpus, tmp_path, monkeypatch):
    before, started = set(), set()
    train_batches, place = loop.train_batches, loop.sharding.place_batch

    def noted_batches(*args, **kwargs):
        before.update(threading.enumerate())
        return train_batches(*args, **kwargs)

    def noted_place(batch, mesh):
        started.update(set(threading.enumerate()) - before)
        return place(batch, mesh)

    monkeypatch.setattr(loop, "train_batches", noted_batches)
    monkeypatch.setattr(loop.sharding, "place_batch", noted_place)
    loop.train(tiny_config(**RUN), tmp_path, None, corpus)
    for thread in started:
        thread.join(timeout=60)  # what was told to end may still be at it
    assert started and not any(thread.is_alive() for thread in started)
