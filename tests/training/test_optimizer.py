"""The optimiser: schedules, weight decay, AdamW's first update, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_config

from sir_jax.errors import UserError
from sir_jax.runtime.trees import leaf_paths
from sir_jax.training.optimizer import decay_mask, make_optimizer, make_schedule
from sir_jax.training.state import check_param_patterns


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
