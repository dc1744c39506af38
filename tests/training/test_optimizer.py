"""The optimiser: schedules, weight decay, AdamW's first update, clipping, other algorithms."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared_runs import shared_programs
from tiny_models import filled, tiny_config
from training_helpers import memory_corpus

from sir_jax.config.check import check_config
from sir_jax.errors import UserError
from sir_jax.inference.workdirs import restore_params
from sir_jax.runtime.interrupt import Interrupted
from sir_jax.runtime.sharding import make_mesh
from sir_jax.runtime.trees import leaf_paths, split_tree
from sir_jax.training import loop
from sir_jax.training.metrics import JSONL, read_records
from sir_jax.training.optimizer import decay_mask, make_optimizer, make_schedule
from sir_jax.training.setup import Setup, prepare
from sir_jax.training.state import check_param_patterns, schedule_free_state


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule_against_its_formula(schedule):
    cfg = tiny_config(
        **{
            "optim.schedule": schedule,
            "optim.learning_rate": 0.4,
            "optim.warmup_steps": 4,
            "optim.end_factor": 0.1,
        }
    ).optim
    rate = make_schedule(cfg, 20)
    for step in range(21):
        if step < 4:
            expected = 0.4 * (step + 1) / 4
        else:
            t = (step - 4) / 16
            shape = {"cosine": 0.5 * (1 + np.cos(np.pi * t)), "linear": 1 - t, "constant": 1.0}
            low = 1.0 if schedule == "constant" else 0.1
            expected = 0.4 * (low + (1 - low) * shape[schedule])
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5)


def test_schedule_without_warmup_starts_at_the_peak():
    cfg = tiny_config(**{"optim.warmup_steps": 0, "optim.learning_rate": 0.4}).optim
    np.testing.assert_allclose(make_schedule(cfg, 10)(0), 0.4, rtol=1e-6)


def test_bad_schedules_are_refused():
    with pytest.raises(UserError, match="optim.schedule='cosin' is none of cosine"):
        make_schedule(tiny_config(**{"optim.schedule": "cosin"}).optim, 10)
    with pytest.raises(UserError, match="optim.warmup_steps=-3 is below 0"):
        make_schedule(tiny_config(**{"optim.warmup_steps": -3}).optim, 20)


def test_run_shorter_than_its_warmup_ends_within_it():
    cfg = tiny_config(**{"optim.warmup_steps": 30, "optim.learning_rate": 0.3}).optim
    np.testing.assert_allclose(make_schedule(cfg, 20)(19), 0.2, rtol=1e-6)


def test_decay_mask_by_axes_and_path():
    params = {
        "a": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
        "position": np.ones((4, 3)),
        "temperature": np.ones(()),
    }
    mask = leaf_paths(decay_mask(params, (".*/bias", "position")))
    assert mask == {"a/bias": False, "a/kernel": True, "position": False, "temperature": False}


def test_first_update_is_that_of_adamw():
    cfg = tiny_config(
        **{
            "optim.warmup_steps": 0,
            "optim.schedule": "constant",
            "optim.learning_rate": 0.1,
            "optim.weight_decay": 0.5,
            "optim.no_decay": (),
            "optim.clip_norm": 1.0,
        }
    ).optim
    tx = make_optimizer(cfg, 10)
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), 3.0)}
    grads = jax.tree.map(lambda x: jnp.full(x.shape, -7.0), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    # After bias correction the first direction of Adam is g / |g|, with or without clipping.
    np.testing.assert_allclose(updates["bias"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"], 0.1 - 0.1 * 0.5 * 3.0, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    cfg = tiny_config(**{"optim.clip_norm": 1.0}).optim
    tx = make_optimizer(cfg, 10)
    params = {"kernel": jnp.zeros((1, 2))}
    state = tx.init(params)
    _, state = tx.update({"kernel": jnp.array([[30.0, 40.0]])}, state, params)
    (mu,) = [x for path, x in leaf_paths(state).items() if path.endswith("mu/kernel")]
    np.testing.assert_allclose(mu, (1 - cfg.b1) * np.array([[0.6, 0.8]]), rtol=1e-5)


def test_rates_multiply_updates_and_decay_of_what_they_name():
    fields = {"optim.warmup_steps": 0, "optim.weight_decay": 0.5, "optim.learning_rate": 0.1}
    rng = np.random.default_rng(0)
    shapes = {"pool_image": (3, 2), "pool_speech": (2, 2), "fusion": (2,), "speech_head": (2, 3)}
    params, grads = (
        {name: {"kernel": jnp.float32(rng.normal(size=shape))} for name, shape in shapes.items()}
        for _ in range(2)
    )

    def updates(rates, clip):
        cfg = tiny_config(**fields, **{"optim.rates": rates, "optim.clip_norm": clip}).optim
        tx = make_optimizer(cfg, 10)
        state = tx.init(params)
        for _ in range(2):
            found, state = tx.update(grads, state, params)
        return {name: np.asarray(leaf["kernel"]) for name, leaf in found.items()}

    for clip in (0.0, 1.0):
        plain, other = updates((), clip), updates(("pool_image=3", "pool_.*=0", "fusion=.5"), clip)
        for name, factor in (("pool_image", 3), ("pool_speech", 0), ("fusion", 0.5)):
            np.testing.assert_allclose(other[name], factor * plain[name], rtol=1e-6)
        np.testing.assert_array_equal(other["speech_head"], plain["speech_head"])


def test_rates_of_what_is_not_there_are_refused():
    cfg = tiny_config(**{"optim.rates": ("fusion/layers_09=2",), "optim.no_decay": ()})
    with pytest.raises(UserError, match="optim.rates: 'fusion/layers_09' matches no parameter"):
        check_param_patterns({"fusion": {"layers_00": np.ones(1)}}, cfg)


def test_muon_makes_updates_of_layers_orthogonal_and_is_nadamw_for_the_rest():
    rng = np.random.default_rng(0)
    params, grads = (
        {
            "layers_00": {"kernel": rng.normal(size=(4, 6)), "bias": rng.normal(size=6)},
            "image": {"projection": rng.normal(size=(4, 6))},
        }
        for _ in range(2)
    )
    fields = {"optim.warmup_steps": 0, "optim.weight_decay": 0.5, "optim.learning_rate": 0.1}

    cfg = tiny_config(**fields, **{"optim.algorithm": "muon", "optim.clip_norm": 0.0}).optim
    nadamw = optax.nadamw(0.1, cfg.b1, cfg.b2, cfg.eps, weight_decay=0.5)
    muon, adam = (
        leaf_paths(tx.update(grads, tx.init(params), params)[0])
        for tx in (make_optimizer(cfg, 10), nadamw)
    )
    np.testing.assert_allclose(muon["image/projection"], adam["image/projection"], rtol=1e-6)
    undecayed = adam["layers_00/bias"] + 0.1 * 0.5 * params["layers_00"]["bias"]
    np.testing.assert_allclose(muon["layers_00/bias"], undecayed, rtol=1e-5)
    kernel = params["layers_00"]["kernel"]
    turned = -(muon["layers_00/kernel"] / 0.1 + 0.5 * kernel) / (0.2 * np.sqrt(6))
    # Newton and Schulz's five steps bring singular values near 1, not to it.
    sizes = np.linalg.svd(turned, compute_uv=False)
    assert sizes.min() > 0.5 and sizes.max() < 1.3
    assert (turned * grads["layers_00"]["kernel"]).sum() > 0


def test_schedule_free_against_its_formula():
    fields = {"optim.algorithm": "schedule_free", "optim.schedule": "constant"}
    fields |= {"optim.warmup_steps": 3, "optim.learning_rate": 0.1, "optim.weight_decay": 0.5}
    cfg = tiny_config(**fields, **{"optim.rates": ("a=3",), "optim.clip_norm": 0.0}).optim
    tx, rate = make_optimizer(cfg, 10), make_schedule(cfg, 10)
    rng = np.random.default_rng(0)
    y = {"a": rng.normal(size=(2, 3)), "b": rng.normal(size=(2, 3))}
    params, state = jax.tree.map(jnp.float32, y), tx.init(jax.tree.map(jnp.float32, y))
    x, z, squares, total = dict(y), dict(y), {"a": 0.0, "b": 0.0}, 0.0
    for step in range(4):
        grads = {name: rng.normal(size=(2, 3)) for name in y}
        updates, state = tx.update(jax.tree.map(jnp.float32, grads), state, params)
        params = optax.apply_updates(params, updates)
        total += float(rate(step + 1)) ** 2
        share = float(rate(step + 1)) ** 2 / total
        for name, factor in (("a", 3), ("b", 1)):
            squares[name] = cfg.b2 * squares[name] + (1 - cfg.b2) * grads[name] ** 2
            sized = grads[name] / (np.sqrt(squares[name] / (1 - cfg.b2 ** (step + 1))) + cfg.eps)
            z[name] = z[name] - factor * float(rate(step)) * (sized + 0.5 * y[name])
            x[name] = (1 - share) * x[name] + share * z[name]
            y[name] = cfg.b1 * x[name] + (1 - cfg.b1) * z[name]
            np.testing.assert_allclose(params[name], y[name], rtol=2e-5, atol=1e-6)
    shown = optax.contrib.schedule_free_eval_params(schedule_free_state(state), params)
    for name in x:
        np.testing.assert_allclose(shown[name], x[name], rtol=2e-5, atol=2e-6)


OTHERS = {
    "muon": {"optim.algorithm": "muon"},
    "schedule_free": {"optim.algorithm": "schedule_free", "optim.schedule": "constant"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_state_of_other_algorithms_lies_as_the_parameters_do(name):
    frozen = {"optim.freeze": ("speech",), "mesh.fsdp": 2}
    cfg = tiny_config(**OTHERS[name], **frozen)
    setup = prepare(cfg, make_mesh(cfg.mesh, jax.devices()[:2]))
    wanted = leaf_paths(setup.shardings.params)
    sharded = 0
    for path, where in leaf_paths(setup.shardings.opt_state).items():
        owner = next((own for own in wanted if path.endswith(f"/{own}")), None)
        assert owner is None or where.spec == wanted[owner].spec, path
        assert owner is None or not owner.startswith("speech/"), path
        sharded += owner is not None and "fsdp" in where.spec
    # A moment or two of each parameter that is trained and has a rule.
    assert sharded > 10


@pytest.mark.parametrize("name", OTHERS)
def test_other_algorithms_learn_and_go_on_exactly(name, tmp_path, monkeypatch):
    corpus, evaluated, take_step = memory_corpus(8), [], loop.take_step
    run = {"data.buckets": (6_400,), "optim.freeze": ("speech", "image"), "train.steps": 12}
    cfg = tiny_config(**OTHERS[name], **run, **{"optim.learning_rate": 0.01})

    def create_state(setup):
        state = jax.tree.map(jnp.asarray, filled(setup.abstract))
        trainable, _ = split_tree(state.params, ("speech", "image"))
        return jax.device_put(state.replace(opt_state=setup.tx.init(trainable)), setup.shardings)

    def evaluate(params, model, cfg):
        evaluated.append(jax.device_get(params))
        return {}

    def take_step_then_signal(run, *rest):
        out = take_step(run, *rest)
        if out.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    with shared_programs():
        monkeypatch.setattr(Setup, "create_state", create_state)
        loop.train(cfg, tmp_path / "whole", evaluate, corpus)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "take_step", take_step_then_signal)
            with pytest.raises(Interrupted):
                loop.train(cfg, tmp_path / "parts", evaluate, corpus)
        loop.train(cfg, tmp_path / "parts", evaluate, corpus)
    whole, parts = (
        [r["train/loss"] for r in read_records(tmp_path / d / JSONL) if "train/loss" in r]
        for d in ("whole", "parts")
    )
    assert parts == whole and np.mean(whole[-3:]) < np.mean(whole[:3]) - 0.1
    # What was evaluated is what is given away, and the same for both.
    for folder, shown in zip(("whole", "parts"), (evaluated[0], evaluated[-1]), strict=True):
        stored = leaf_paths(restore_params(tmp_path / folder, "last")[1])
        for path, leaf in leaf_paths(shown).items():
            np.testing.assert_array_equal(stored[path], leaf)
            np.testing.assert_array_equal(leaf, leaf_paths(evaluated[0])[path])


def test_schedule_free_begins_at_the_parameters_that_a_run_starts_from(monkeypatch):
    given = {"init.model": "some", "optim.freeze": ("speech", "image")}
    cfg = tiny_config(**OTHERS["schedule_free"], **given)
    setup = prepare(cfg, make_mesh(cfg.mesh))
    state = jax.tree.map(jnp.asarray, filled(setup.abstract))
    setup = dataclasses.replace(setup, init=lambda key: state)

    def loaded(cfg, params):
        return jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params)

    monkeypatch.setattr("sir_jax.training.setup.initial_params", loaded)
    begun = setup.create_state()
    z = leaf_paths(schedule_free_state(begun.opt_state).z)
    assert not any(path.startswith(("speech/", "image/")) for path in z)
    for path, leaf in z.items():
        np.testing.assert_array_equal(leaf, leaf_paths(begun.params)[path])
        np.testing.assert_array_equal(leaf, leaf_paths(state.params)[path] + 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optim.schedule": "cosine"}, "optim.schedule='cosine' with .*schedule_free', which has"),
        ({"optim.b1": 0.0}, "optim.b1=0 with optim.algorithm='schedule_free'"),
    ],
)
def test_what_schedule_free_cannot_use_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        check_config(tiny_config(**OTHERS["schedule_free"] | fields))
