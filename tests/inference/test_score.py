"""A model's score: its numbers as JSON, joint vectors, fingerprint, and its place in a run."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import random_params, tiny_config

from sir_jax.errors import UserError
from sir_jax.inference.release import fingerprint, write_release
from sir_jax.inference.retriever import Retriever
from sir_jax.inference.score import (
    FILE,
    UNFITTED,
    Scale,
    Score,
    mark_of,
    read_score,
    score_of_workdir,
    write_score,
)
from sir_jax.losses.fused_score import joint_rows, joint_temperature
from sir_jax.models import build_model

SCORE = Score(0.5, 2.0, (0.3, 0.1, -1.5), {"split": "val", "r1": 0.75}, 0.6)


@pytest.fixture(scope="module")
def pooling():
    """Return (config, parameters) of a model with a pooled match of width 8."""
    cfg = tiny_config(**{"model.match.kind": "pooled"})
    cfg.model.match.update(queries=2, hidden=16, width=8)
    return cfg, random_params(build_model(cfg.model, ("pool",)))


def unit(rng, n: int, width: int) -> np.ndarray:
    x = rng.normal(size=(n, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_product_of_joint_vectors_is_the_whole_score():
    rng, t, w = np.random.default_rng(0), 0.05, 7.0
    z_s, z_i, p_s, p_i = (unit(rng, n, e) for n, e in ((5, 6), (9, 6), (5, 3), (9, 3)))
    a, b = (joint_rows(np.hstack(x), 6, t, w) for x in ((z_s, p_s), (z_i, p_i)))
    assert a.dtype == np.float32 and a.shape == (5, 9)
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 1, atol=1e-6)
    score = (a.astype(np.float64) @ b.T.astype(np.float64)) / joint_temperature(t, w)
    np.testing.assert_allclose(score, z_s @ z_i.T / t + w * (p_s @ p_i.T), atol=2e-5)
    # Without a weight, or without pooled vectors, the embedding is all that is left.
    np.testing.assert_array_equal(joint_rows(np.hstack([z_s, p_s]), 6, t, 0.0), np.float32(z_s))
    np.testing.assert_array_equal(joint_rows(z_s, 6, t, w), joint_rows(z_s, 6, 1.0, 0.0))
    assert not joint_rows(np.zeros((1, 9)), 6, t, w).any()


def test_scale_says_what_the_vectors_are(pooling):
    _, params = pooling
    scale = Scale(params, 16, 8, SCORE)
    weight = 2.0 * np.exp(float(params["pooled_scale"]))
    assert scale.width == 24 and scale.pooled_weight == pytest.approx(weight)
    assert scale.temperature == pytest.approx(1 / (1 / 0.07 + weight))
    alone = Scale(params, 16, 8, Score(pooled_weight=0.0))
    assert (alone.width, alone.temperature) == (16, pytest.approx(0.07))


def test_a_score_comes_back_from_json():
    plain = json.loads(json.dumps(SCORE.to_json()))
    assert read_score(plain, "x") == SCORE and read_score(None, "x") == UNFITTED
    del plain["typical"]  # as before there was any
    assert read_score(plain, "x") == dataclasses.replace(SCORE, typical=None)
    assert read_score(UNFITTED.to_json(), "x") == UNFITTED
    scores = np.array([3.0, 5.0])
    assert UNFITTED.probabilities(scores) is None and SCORE.probabilities(scores[:1]) is None
    x = [0.3 * 3 - 0.1 * 5 - 1.5, 0.3 * 5 - 0.1 * 3 - 1.5]
    np.testing.assert_allclose(SCORE.probabilities(scores), 1 / (1 + np.exp(-np.array(x))))
    assert SCORE.fused(0.2, 0.1, 3.0) == 3.5 and SCORE.fused(0.2, 0.1, None) == 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": float("nan")},
        {"weight": -1.0},
        {"weight": "much"},
        {"pooled_weight": float("inf")},
        {"calibration": {"scale": -1.0, "against": 0.0, "bias": 0.0}},
        {"calibration": {"scale": 1.0, "against": -0.5, "bias": 0.0}},
        {"calibration": {"scale": 1.0, "bias": 0.0}},
        {"calibration": [1.0, 2.0]},
        {"fitted": 3},
        {"typical": float("inf")},
    ],
)
def test_a_damaged_score_is_refused_by_name(changes):
    with pytest.raises(UserError, match=r"out: its score .*; fit it again"):
        read_score(SCORE.to_json() | changes, "out")


def test_a_workdir_keeps_the_score_of_each_checkpoint(pooling, tmp_path):
    _, params = pooling
    other = params | {"pooled_scale": params["pooled_scale"] + np.float32(0.01)}
    assert mark_of(params) != mark_of(other)
    assert score_of_workdir(tmp_path, params) == UNFITTED
    write_score(tmp_path, params, SCORE)
    write_score(tmp_path, other, Score(0.0, 0.25))
    assert score_of_workdir(tmp_path, params) == SCORE
    assert score_of_workdir(tmp_path, other) == Score(0.0, 0.25)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match=f"{FILE} is damaged"):
        score_of_workdir(tmp_path, params)


def test_a_release_of_joint_vectors_has_their_fingerprint(pooling, tmp_path):
    cfg, params = pooling
    mark = write_release(tmp_path / "r", cfg, params, "r", "float32", {}, "", SCORE)
    model = Retriever.load(tmp_path / "r")
    assert model.score == SCORE and model.fingerprint == mark and not model.can_match
    assert model.width == 24 and model.temperature < 0.07
    # Vectors that hold the pooled match depend on its weight and parameters; others do not.
    changed = params | {"pool_image": {**params["pool_image"], "queries": np.ones((2, 32))}}
    assert len({mark, fingerprint(cfg, params, UNFITTED), fingerprint(cfg, changed, SCORE)}) == 3
    without, bias = Score(pooled_weight=0.0), params | {"pooled_bias": np.float32(9)}
    plain = fingerprint(cfg, params, without)
    assert plain == fingerprint(cfg, changed, without) and plain != mark
    assert fingerprint(cfg, bias, SCORE) == mark
    for name in ("pool_speech", "pool_image", "pooled_scale", "pooled_bias"):
        params = {key: tree for key, tree in params.items() if key != name}
    cfg.model.match.kind = "fusion"
    assert fingerprint(cfg, params) == plain
    cfg.model.match.kind = "pooled"
