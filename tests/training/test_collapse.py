"""A training that learns nothing says so once: hand-made series, and runs of the loop."""

import dataclasses
import functools

import numpy as np
import pytest
from shared_runs import shared_programs
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.training import loop
from sir_jax.training.collapse import Collapse, Guessing
from sir_jax.training.metrics import JSONL, read_records


def watched(capsys, accuracies, window=50, cfg=None, **more):
    """Show a detector one accuracy an update; return the lines that it said."""
    cfg = cfg or tiny_config(**{"data.batch_size": 32, "optim.warmup_steps": 10})
    collapse = Collapse(cfg, window)
    for step, accuracy in enumerate(accuracies, 1):
        metrics = {f"train/{side}_accuracy": accuracy for side in ("s2i", "i2s")}
        metrics |= {f"train/{side}_spread": 0.8 for side in ("speech", "image")}
        metrics |= {"train/chance_accuracy": 1 / 32, "train/grad_norm": 2.0}
        collapse.see(step, metrics | {f"train/{name}": value for name, value in more.items()})
    return capsys.readouterr().out.splitlines()


def guesses(steps, rate=1 / 32, seed=0):
    return np.random.default_rng(seed).binomial(32, rate, steps) / 32


def test_guessing_is_said_once_and_what_to_change(capsys):
    cfg = tiny_config(
        **{
            "data.batch_size": 32,
            "optim.learning_rate": 7e-4,
            "optim.warmup_steps": 10,
            "loss.sic.queue": 4096,
        }
    )
    (line,) = watched(capsys, guesses(300), cfg=cfg, speech_spread=0.0004)
    assert line.startswith("warning: step 60: nothing is learnt: accuracy within the batch was ")
    assert "over the last 50 updates, chance is 3.12 %; embeddings have collapsed" in line
    assert "(spread of speech 0.0004, of images 0.8; 0: all equal), gradient norm 2;" in line
    for remedy in (
        "lower optim.learning_rate (0.0007)",
        "raise optim.warmup_steps (10)",
        "lower optim.clip_norm (4)",
        "optim.freeze",
        "begin without loss.sic.queue (4096)",
    ):
        assert remedy in line


def test_embeddings_that_differ_are_not_called_collapsed(capsys):
    cfg = tiny_config(**{"data.batch_size": 32, "optim.warmup_steps": 0, "optim.clip_norm": 0.0})
    (line,) = watched(capsys, guesses(60), cfg=cfg)
    assert "step 50" in line and "embeddings differ (spread of speech 0.8" in line
    assert "queue" not in line and "set optim.clip_norm" in line


@pytest.mark.parametrize(
    "accuracies",
    [
        guesses(209),  # within warm-up and window
        np.linspace(1 / 32, 0.9, 300),
        guesses(2000, rate=0.06),  # twice chance, and no more
        np.r_[np.zeros(10), guesses(400, rate=0.5)],
    ],
)
def test_who_learns_or_has_not_had_the_time_is_left_alone(capsys, accuracies):
    assert watched(capsys, accuracies, window=200) == []


def test_a_late_collapse_is_said_too(capsys):
    (line,) = watched(capsys, np.r_[np.full(200, 0.7), np.full(100, 1 / 32)])
    # When the last of the good updates has left the window, or is outweighed.
    assert line.startswith("warning: step 250:")


def test_the_window_of_a_long_run_sees_a_fifth_above_chance(capsys):
    rates = [guesses(400, rate=1.6 / 32, seed=seed) for seed in range(5)]
    assert [watched(capsys, one, window=200) for one in rates] == [[]] * 5
    rates = [guesses(400, seed=seed) for seed in range(5)]
    assert [len(watched(capsys, one, window=200)) for one in rates] == [1] * 5


def test_with_a_queue_the_accuracy_within_the_batch_counts(capsys):
    # Of 65,000 candidates few are found; of the batch's own 32 nearly all.
    more = {"s2i_accuracy_in_batch": 0.9, "i2s_accuracy_in_batch": 0.9}
    assert watched(capsys, np.full(300, 0.01), **more) == []
    more = {"s2i_accuracy_in_batch": 1 / 32, "i2s_accuracy_in_batch": 1 / 32}
    assert len(watched(capsys, np.full(300, 0.5), **more)) == 1


def test_without_the_contrastive_term_nothing_is_judged(capsys):
    collapse = Collapse(tiny_config(), 5)
    for step in range(1, 50):
        collapse.see(step, {"train/sim_accuracy": 0.5, "train/grad_norm": 1.0})
    assert capsys.readouterr().out == ""


def test_matching_on_its_prior_is_said_once_and_of_each_match(capsys):
    cfg = tiny_config(
        **{
            "optim.warmup_steps": 10,
            "data.batch_size": 24,
            "data.groups": 8,
            "data.grouped_after": 6,
        }
    )
    noise = 0.01 * np.random.default_rng(0).normal(size=400)

    def said(sim, pooled=None, kind="fusion"):
        cfg.model.match.kind = kind
        guessing = Guessing(cfg, 50)
        for step, loss in enumerate(sim, 1):
            metrics = {"train/sim": loss, "train/sim_prior": 0.6365}
            metrics |= {} if pooled is None else {"train/sim_pooled": pooled[step - 1]}
            guessing.see(step, metrics)
        return capsys.readouterr().out.splitlines()

    (line,) = said(0.6365 + noise)
    assert line.startswith("warning: step 60: matching guesses: sim was 0.63")
    assert "pairs are true has 0.6365; raise data.batch_size (24), or set model.match.kind" in line
    assert "data.grouped_after (6), or give the new layers a rate of their own" in line
    # Two hundredths below the prior is learning, and so is a fall that is just beginning.
    assert said(0.98 * 0.6365 + noise) == []
    assert said(np.r_[np.full(20, 0.64), np.linspace(0.64, 0.3, 380)]) == []
    (line,) = said(0.3 + noise, 0.7 + noise, "both")
    assert "sim_pooled was 0.70" in line and "model.match.kind" not in line
    assert said([], kind="fusion") == []


def all_alike(corpus):
    """Let every picture look and every caption sound as the first one."""
    split = corpus.splits["train"]
    first = split[0]
    heard = first.captions[0]
    split._records = [
        dataclasses.replace(
            record,
            image=first.image,
            captions=tuple(
                dataclasses.replace(caption, audio=heard.audio, samples=heard.samples)
                for caption in record.captions
            ),
        )
        for record in split._records
    ]
    split.index["samples"] = heard.samples
    return corpus


@pytest.fixture
def programs():
    with shared_programs(init=False):
        yield


def test_a_run_with_one_vector_for_all_is_warned_of_and_a_healthy_one_is_not(
    programs, tmp_path, capsys, monkeypatch
):
    cfg = tiny_config(
        **{
            "data.buckets": (6_400,),
            "model.head.dropout": 0.0,
            "optim.schedule": "constant",
            "train.steps": 60,
            "train.log_every": 20,
        }
    )
    monkeypatch.setattr(loop, "Collapse", functools.partial(Collapse, window=40))
    last = {}
    for name, corpus in (("healthy", memory_corpus(8)), ("alike", all_alike(memory_corpus(8)))):
        loop.train(cfg, tmp_path / name, None, corpus)
        last[name] = read_records(tmp_path / name / JSONL)[-1]
        out = capsys.readouterr().out
        assert out.count("nothing is learnt") == (name == "alike"), out
    assert "embeddings have collapsed" in out
    for side in ("speech", "image"):
        assert abs(last["alike"][f"train/{side}_spread"]) < 1e-4
        assert last["healthy"][f"train/{side}_spread"] > 0.3
    for side in ("s2i", "i2s"):
        assert last["alike"][f"train/{side}_accuracy"] == 1 / 8
        assert last["healthy"][f"train/{side}_accuracy"] >= 0.5
    assert [record["train/chance_accuracy"] for record in last.values()] == [1 / 8] * 2
