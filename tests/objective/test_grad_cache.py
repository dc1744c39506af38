"""GradCache gives the gradient of the whole batch, which is that of the terms that are on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_helpers import POOL, STILL, TERMS, gradient, made
from training_helpers import synthetic_batch

from sir_jax.config import fields
from sir_jax.objective.gradient import loss_and_grads
from sir_jax.objective.microbatches import join_rows, map_rows, split_rows
from sir_jax.objective.switches import frozen_patterns
from sir_jax.objective.total import Objective
from sir_jax.runtime.trees import leaf_paths, split_tree

# Each term alone, and all of them: a pair has no code of its own.
SIC, SIM, CMD = ("sic",), ("sim",), ("cmd",)
ALL = tuple(TERMS)
POOLED = ("sim", "frames")
FIELDS = TERMS | {"frames": {"model.match.kind": "pooled", "model.match.frames": True, **POOL}}


@functools.cache
def of_big_batch(terms):
    """Return (cfg, model, state) and (loss, aux, gradient) of the whole batch, for some terms."""
    on = {name: value for term in terms for name, value in FIELDS[term].items()}
    off = {} if "sic" in terms else {"loss.sic.weight": 0.0}
    cfg, model, state = made(**off, **on, **STILL)
    return (cfg, model, state), gradient(cfg, model, state, synthetic_batch(cfg), 1)


@pytest.mark.parametrize("terms", [SIC, SIM, CMD, ALL], ids="+".join)
def test_any_subset_trains_just_its_own_parameters(terms):
    (_, _, state), (loss, aux, grads) = of_big_batch(terms)
    assert np.isfinite(loss)
    assert set(aux.metrics) & set(fields.TERMS) == set(terms) & set(fields.TERMS)
    parts = set(state.params)
    assert ("fusion" in parts) == bool({"sim", "cmd"} & set(terms))
    assert ("match_head" in parts) == ("sim" in terms)
    assert ({"denoise_speech", "denoise_image"} <= parts) == ("cmd" in terms)
    assert (state.ema_params is None) == (state.queue is None) == ("queue" not in terms)
    moved = {path.split("/")[0] for path, leaf in grads.items() if np.any(leaf)}
    idle = set() if "sic" in terms else {"speech_projection", "image_projection", "temperature"}
    assert moved == parts - idle
    held = leaf_paths(state.opt_state)
    assert not any(part in path for part in idle for path in held)


@pytest.mark.parametrize(
    "terms", [SIC, POOLED, pytest.param(SIM + CMD, marks=pytest.mark.release), ALL], ids="+".join
)
def test_gradient_is_the_big_batch(terms):
    (cfg, model, state), (loss, aux, expected) = of_big_batch(terms)
    batch = synthetic_batch(cfg)
    cached_loss, cached_aux, actual = gradient(cfg, model, state, batch, 4)
    np.testing.assert_allclose(cached_loss, loss, rtol=1e-6)
    assert actual.keys() == expected.keys()
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in expected.values()))
    assert norm > 0.1
    for path, leaf in expected.items():
        np.testing.assert_allclose(actual[path], leaf, atol=1e-5 * norm, rtol=0, err_msg=path)
    for name, value in aux.metrics.items():
        np.testing.assert_allclose(cached_aux.metrics[name], value, atol=1e-5, err_msg=name)
    if "queue" in terms:
        for row, cached in zip(aux.queue_rows, cached_aux.queue_rows, strict=True):
            np.testing.assert_allclose(cached, row, atol=1e-6)


@pytest.mark.release
def test_accumulation_alone_is_another_gradient():
    cfg, model, state = made(**STILL)
    batch = synthetic_batch(cfg)
    _, _, expected = gradient(cfg, model, state, batch, 1)
    cfg.train.grad_accum = 4
    _, _, actual = gradient(cfg, model, state, batch, 1)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in expected.values()))
    assert max(np.abs(actual[path] - leaf).max() for path, leaf in expected.items()) > 1e-2 * norm


def test_both_passes_draw_the_same_dropout():
    # With other dropout masks in the second pass the gradient would be that of another function. So
    # the slope of the loss along the gradient is compared with the gradient's squared length.
    still = {name: value for name, value in STILL.items() if name != "model.head.dropout"}
    cfg, model, state = made(**still, **{"model.head.dropout": 0.5})
    batch = synthetic_batch(cfg)
    cfg.train.grad_cache = 2
    trainable, frozen = split_tree(state.params, frozen_patterns(cfg))
    run = jax.jit(functools.partial(loss_and_grads, Objective(model, cfg)))
    loss, _, grads = run(trainable, frozen, state, batch, jax.random.key(3))
    length = float(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads)))
    size = 1e-3 / length**0.5

    def loss_at(distance):
        moved = jax.tree.map(lambda p, g: p + distance * g, trainable, grads)
        return float(run(moved, frozen, state, batch, jax.random.key(3))[0])

    slope = (loss_at(size) - loss_at(-size)) / (2 * size)
    assert slope == pytest.approx(length, rel=0.02)


def test_parts_are_strided_rows_and_join_again():
    tree = {"x": jnp.arange(12).reshape(6, 2)}
    parts = split_rows(tree, 3)
    np.testing.assert_array_equal(parts["x"][1], [[2, 3], [8, 9]])
    np.testing.assert_array_equal(join_rows(parts)["x"], tree["x"])


def test_mapped_rows_are_those_of_one_call():
    x = jax.random.normal(jax.random.key(0), (6, 3))

    def total(x, count):
        rows = map_rows(lambda key, a, b: jnp.sin(a) * b, None, count, x, 2 * x)
        return (rows**2).sum(), rows

    (_, one), one_grad = jax.value_and_grad(total, has_aux=True)(x, 1)
    (_, three), three_grad = jax.value_and_grad(total, has_aux=True)(x, 3)
    np.testing.assert_allclose(three, one, rtol=1e-6)
    np.testing.assert_allclose(three_grad, one_grad, rtol=1e-5)
    keys = map_rows(lambda key, a: a + jax.random.normal(key, a.shape), jax.random.key(1), 3, 0 * x)
    assert len(np.unique(keys)) == keys.size  # each part has its own key
