"""Checkpoints: any mesh, donation, the best and the last, missing and damaged ones."""

import functools

import jax
import numpy as np
import pytest
from tiny_models import filled, tiny_config

from sir_jax.config.compare import to_json
from sir_jax.errors import UserError
from sir_jax.inference.workdirs import restore_params
from sir_jax.models import build_model
from sir_jax.runtime import sharding
from sir_jax.runtime.trees import leaf_paths
from sir_jax.runtime.workdir import BEST_METRIC, CHECKPOINTS
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import init_state


def placed_state(cfg):
    """Return (abstract, shardings, state) of a config, with the state on the config's mesh."""
    model, tx = build_model(cfg.model), make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings = sharding.tree_shardings(abstract, sharding.make_mesh(cfg.mesh))
    return abstract, shardings, jax.device_put(filled(abstract), shardings)


# Of frozen leaves the optimiser holds none: half as many arrays to write.
HALF = {"optim.freeze": ("speech", "image")}


@pytest.fixture(scope="module")
def on_4x2():
    cfg = tiny_config(**HALF, **{"mesh.data": 4, "mesh.fsdp": 2})
    return cfg, *placed_state(cfg)


@pytest.fixture(scope="module")
def on_one():
    """Return the same on one device: a save writes eight times as fast."""
    cfg = tiny_config(**HALF)
    return cfg, *placed_state(cfg)


def add(state, x):
    return jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + x, s), donate_argnums=0)(state)


def assert_equal_trees(a, b):
    a, b = leaf_paths(a), leaf_paths(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


@pytest.mark.parametrize(
    "mesh",
    [
        # One device, and all three axes at each change.
        *(pytest.param(mesh, marks=pytest.mark.release) for mesh in ((4, 2, 1), (1, 8, 1))),
        (1, 1, 1),
        (2, 2, 2),
    ],
)
def test_whole_state_comes_back_on_any_mesh(tmp_path, on_4x2, mesh):
    cfg, abstract, _, state = on_4x2
    saved = Checkpoints(tmp_path)
    saved.save(state, 3, cfg)
    saved.close()
    other = tiny_config(**dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh, strict=True)))
    shardings = sharding.tree_shardings(abstract, sharding.make_mesh(other.mesh))
    opened = Checkpoints(tmp_path)
    assert (opened.last, opened.best) == (3, None)
    back = opened.restore(3, abstract, shardings)
    opened.close()
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert_equal_trees(back, state)
    for path, leaf in leaf_paths(back).items():
        assert leaf.sharding.is_equivalent_to(leaf_paths(shardings)[path], leaf.ndim), path


def test_donating_the_state_does_not_disturb_a_save_in_flight(tmp_path):
    cfg = tiny_config()
    abstract, shardings, state = placed_state(cfg)
    expected = jax.tree.map(np.array, state.params)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, cfg)
    for _ in range(3):
        state = add(state, 1)
    checkpoints.wait()
    assert_equal_trees(checkpoints.restore(1, abstract, shardings).params, expected)
    checkpoints.close()


def test_best_and_last_two_are_kept_over_a_restart(tmp_path, on_one):
    cfg, _, _, state = on_one
    scores = {1: 0.2, 2: 0.5, 3: 0.5, 4: None, 5: 0.3}
    for steps in ((1, 2, 3), (4, 5)):
        checkpoints = Checkpoints(tmp_path)
        for step in steps:
            if scores[step] is not None:
                checkpoints.note_evaluation(step, {BEST_METRIC: scores[step]})
            checkpoints.save(state, step, cfg)
        checkpoints.close()
    # Steps 2 and 3 have equal scores; the earlier one is kept.
    folders = [p.name for p in (tmp_path / CHECKPOINTS).iterdir() if p.is_dir()]
    assert sorted(folders) == ["2", "4", "5"]
    opened = Checkpoints(tmp_path, read_only=True)
    assert (opened.best, opened.last) == (2, 5)
    opened.close()


def test_restore_params_gives_numpy_and_the_config(tmp_path):
    cfg = tiny_config()
    _, _, state = placed_state(cfg)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.note_evaluation(1, {BEST_METRIC: 0.9})
    checkpoints.save(state, 1, cfg)
    best = jax.tree.map(np.array, state.params)
    state = add(state, 1)
    checkpoints.note_evaluation(2, {BEST_METRIC: 0.1})
    checkpoints.save(state, 2, cfg)
    checkpoints.close()
    for which, params in (("best", best), ("last", state.params)):
        stored_cfg, restored = restore_params(tmp_path, which)
        assert to_json(stored_cfg) == to_json(cfg)
        # Lists of the JSON file are tuples again, because the model must be hashable.
        hash(build_model(stored_cfg.model))
        assert {type(leaf) for leaf in leaf_paths(restored).values()} == {np.ndarray}
        assert_equal_trees(restored, params)


def test_restore_params_takes_a_relative_workdir(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    restored, expected = (restore_params(path)[1] for path in (workdir.name, workdir))
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_missing_checkpoints_say_what_to_do(tmp_path, on_one):
    cfg, _, _, state = on_one
    with pytest.raises(UserError, match="has no checkpoints; give the workdir of a run"):
        restore_params(tmp_path)
    with pytest.raises(UserError, match="'newest' is neither 'best' nor 'last'"):
        restore_params(tmp_path, "newest")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, cfg)
    checkpoints.close()
    with pytest.raises(UserError, match="has no 'best' checkpoint yet; 'last' is there"):
        restore_params(tmp_path, "best")


def test_checkpoint_of_another_model_names_the_leaves(tmp_path):
    cfg = tiny_config()
    _, _, state = placed_state(cfg)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, cfg)
    wider = tiny_config(**{"model.embed_width": 24})
    abstract, shardings, _ = placed_state(wider)
    with pytest.raises(
        UserError,
        match=r"params does not fit.*image_projection/kernel is float32\[32, 16\] "
        r"there and float32\[32, 24\] here",
    ):
        checkpoints.restore(1, abstract, shardings)
    frozen = tiny_config(**{"optim.freeze": ("image",)})
    abstract, shardings, _ = placed_state(frozen)
    with pytest.raises(UserError, match=r"train does not fit.*mu/image/.* there and unknown here"):
        checkpoints.restore(1, abstract, shardings)
    checkpoints.close()


def test_evaluation_after_its_checkpoint_counts(tmp_path, on_one):
    """If SIGTERM ends an evaluation, the resumed run makes it, after its checkpoint was saved."""
    cfg, _, _, state = on_one
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, cfg)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.note_evaluation(1, {BEST_METRIC: 0.4})
    # A kill prevented the save of step 2. Its evaluation is dropped: the run reaches step 2 again.
    checkpoints.note_evaluation(2, {BEST_METRIC: 0.8})
    checkpoints.close()
    opened = Checkpoints(tmp_path, read_only=True)
    assert (opened.best, list(opened.evaluations)) == (1, [1])
    opened.close()


def test_incomplete_checkpoint_is_ignored_and_made_again(tmp_path, on_one):
    cfg, _, _, state = on_one
    checkpoints = Checkpoints(tmp_path)
    checkpoints.note_evaluation(1, {BEST_METRIC: 0.5})
    checkpoints.save(state, 1, cfg)
    checkpoints.save(state, 2, cfg)
    checkpoints.close()
    for path in (tmp_path / CHECKPOINTS / "2" / "meta").iterdir():
        path.unlink()
    opened = Checkpoints(tmp_path)
    assert (opened.last, opened.best) == (1, 1)
    opened.save(state, 2, cfg)
    opened.close()
    again = Checkpoints(tmp_path, read_only=True)
    assert again.last == 2
    again.close()
