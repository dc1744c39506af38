"""The train step: updates, frozen parameters, accumulation, the clamp and precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import filled, tiny_config
from training_helpers import synthetic_batch

from sir_jax.models import build_model
from sir_jax.objective.gradient import loss_and_grads
from sir_jax.objective.total import Objective, loss_fn
from sir_jax.runtime.sharding import make_mesh
from sir_jax.runtime.trees import leaf_paths, merge_trees, split_tree
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import count_params, init_state, project_params
from sir_jax.training.step import OVERLAP, jit_train_step, train_step


def made(cfg):
    """Return (model, state, jitted step) of a config."""
    model, tx = build_model(cfg.model), make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    state = filled(jax.eval_shape(init, jax.random.key(cfg.seed)))
    return model, state, jax.jit(functools.partial(train_step, model=model, tx=tx, cfg=cfg))


@pytest.fixture(scope="module")
def plain():
    cfg = tiny_config()
    return cfg, *made(cfg)


def test_step_counts_and_moves_every_parameter(plain):
    cfg, _, state, step = plain
    batch = synthetic_batch(cfg)
    after, metrics = step(state, batch)
    assert int(after.step) == 1
    assert float(metrics["train/finite"]) == 1.0
    assert metrics.keys() >= {
        "train/loss",
        "train/grad_norm",
        "train/learning_rate",
        "train/temperature",
        "train/s2i_accuracy",
    }
    after, _ = step(after, batch)
    before = leaf_paths(state.params)
    still = [
        path
        for path, leaf in leaf_paths(after.params).items()
        if np.array_equal(leaf, before[path])
    ]
    # The bias of the keys adds a constant to each row of logits, which softmax ignores.
    assert [path for path in still if not path.endswith("attention/key/bias")] == []


def test_loss_falls_on_one_batch(plain):
    cfg, _, state, step = plain
    batch, losses = synthetic_batch(cfg), []
    for _ in range(12):
        state, metrics = step(state, batch)
        losses.append(float(metrics["train/loss"]))
    assert losses[-1] < losses[0] - 0.1


def test_dropout_depends_on_seed_and_step_alone(plain):
    cfg, _, state, step = plain
    batch = synthetic_batch(cfg)
    loss = [
        float(step(state.replace(step=jnp.int32(s)), batch)[1]["train/loss"]) for s in (0, 0, 1)
    ]
    assert loss[0] == loss[1] != loss[2]


def test_non_finite_input_is_flagged(plain):
    cfg, _, state, step = plain
    batch = synthetic_batch(cfg)
    batch["pixels"][0, 0, 0, 0] = np.inf
    assert float(step(state, batch)[1]["train/finite"]) == 0.0


def test_infinite_gradient_of_a_finite_loss_is_flagged(plain):
    cfg, _, state, step = plain
    params = {**state.params, "temperature": jnp.float32(1e-38)}
    tiny = {**synthetic_batch(cfg), "image_ids": np.zeros(cfg.data.batch_size, np.int32)}
    metrics = step(state.replace(params=params), tiny)[1]
    assert not np.isfinite(float(metrics["train/grad_norm"]))
    assert float(metrics["train/finite"]) == 0.0


def test_overlap_gives_the_compiler_the_flags_of_the_platform(monkeypatch):
    # A processor's compiler knows the GPU's flags, too; the TPU's: tests/pods.
    flags = {name: value for name, (value, _) in OVERLAP["gpu"].items()}
    jax.jit(lambda x: x + 1).lower(1.0).compile(flags)
    monkeypatch.setitem(OVERLAP, "cpu", {"xla_no_such_flag": (True, "")})
    monkeypatch.setattr("sir_jax.training.step.train_step", lambda state, batch, **_: (state, {}))
    cfg = tiny_config()
    args = make_mesh(cfg.mesh, jax.devices()[:1]), {}, ("wave",), None, None

    def lowered():
        return jit_train_step(cfg, *args).lower({}, {"wave": jnp.zeros(2)})

    lowered().compile()
    cfg.train.overlap = True
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_flag"):
        lowered().compile()


@pytest.fixture(scope="module")
def partly_frozen():
    cfg = tiny_config(
        **{
            "optim.freeze": ("speech/frontend", "image"),
            "optim.weight_decay": 0.5,
            "train.grad_accum": 2,
            "model.speech.dropout": 0.0,
            "model.head.dropout": 0.0,
        }
    )
    return cfg, *made(cfg)


def test_frozen_leaves_have_no_state_and_do_not_move(partly_frozen):
    cfg, _, state, step = partly_frozen
    names = list(leaf_paths(state.opt_state))
    assert not any("frontend" in name or "/image/" in name for name in names)
    assert any("mu/speech/layers_00" in name for name in names)
    _, frozen = split_tree(state.params, cfg.optim.freeze)
    after, _ = step(state, synthetic_batch(cfg))
    for path, leaf in leaf_paths(split_tree(after.params, cfg.optim.freeze)[1]).items():
        np.testing.assert_array_equal(leaf, leaf_paths(frozen)[path], err_msg=path)
    total = sum(leaf.size for leaf in leaf_paths(state.params).values())
    counts = count_params(state.params, cfg.optim.freeze)
    assert sum(counts) == total and counts[1] == sum(x.size for x in leaf_paths(frozen).values())


def test_bfloat16_frozen_encoders_take_half_the_memory_and_change_little():
    cfg = tiny_config(**{"optim.freeze": ("speech", "image"), "model.head.weigh_layers": True})
    wide = made(cfg)
    cfg.optim.frozen_dtype = "bfloat16"
    model, state, step = made(cfg)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params["speech"])} == {"bfloat16"}
    # Both steps start from the same values, here rounded.
    rounded = jax.tree.map(
        lambda a, b: a.astype(b.dtype), wide[1].params, jax.tree.map(np.asarray, state.params)
    )
    batch = synthetic_batch(cfg)
    after, metrics = step(state.replace(params=rounded), batch)
    _, reference = wide[2](wide[1], batch)
    assert abs(float(metrics["train/loss"]) - float(reference["train/loss"])) < 0.02
    before, moved = leaf_paths(rounded), leaf_paths(after.params)
    for path, leaf in moved.items():
        frozen = path.startswith(("speech/", "image/"))
        assert leaf.dtype == (jnp.bfloat16 if frozen else jnp.float32), path
        assert not frozen or np.array_equal(leaf, before[path]), path
    name = "speech_head/layer_weights"
    assert not np.array_equal(moved[name], before[name])


def test_accumulated_gradient_is_the_mean_over_microbatches(partly_frozen):
    cfg, model, state, _ = partly_frozen
    batch, key = synthetic_batch(cfg), jax.random.key(0)
    trainable, frozen = split_tree(state.params, cfg.optim.freeze)
    loss, _, grads = jax.jit(functools.partial(loss_and_grads, Objective(model, cfg)))(
        trainable, frozen, state, batch, key
    )
    # There are gradients for the trainable leaves alone.
    assert jax.tree.structure(grads) == jax.tree.structure(trainable)

    @jax.jit
    def one(trainable, rows):
        def value(trainable):
            params = merge_trees(trainable, frozen)
            return loss_fn(params, None, None, rows, 0, key, model=model, cfg=cfg)[0]

        return jax.value_and_grad(value)(trainable)

    halves = [one(trainable, {name: x[i::2] for name, x in batch.items()}) for i in range(2)]
    np.testing.assert_allclose(loss, np.mean([half[0] for half in halves]), rtol=1e-5)
    mean = leaf_paths(jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1]))
    for path, leaf in leaf_paths(grads).items():
        expected = mean[path]
        scale = np.abs(expected).max() + 1e-3
        np.testing.assert_allclose(leaf / scale, expected / scale, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(("value", "kept"), [(0.9, 0.5), (-1.0, 0.001), (0.07, 0.07)])
def test_temperature_is_clamped(value, kept):
    out = project_params({"temperature": jnp.float32(value), "a": jnp.ones(1)})
    np.testing.assert_allclose(out["temperature"], kept, rtol=1e-6)
    assert project_params({"a": 1}) == {"a": 1}


def test_clamp_follows_the_update(plain):
    cfg, _, state, step = plain
    hot = state.replace(params={**state.params, "temperature": np.float32(0.7)})
    after, metrics = step(hot, synthetic_batch(cfg))
    assert float(after.params["temperature"]) == 0.5 == float(metrics["train/temperature"])


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_state(plain):
    _, _, state, step = plain
    cfg = tiny_config(**{"model.dtype": "bfloat16"})
    _, _, half_step = made(cfg)
    batch = synthetic_batch(cfg)
    after, metrics = half_step(state, batch)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(after)} == {"float32", "int32"}
    exact = float(step(state, batch)[1]["train/loss"])
    assert 0 < abs(float(metrics["train/loss"]) - exact) < 0.05 * exact
