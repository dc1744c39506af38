"""Lists in the objective: every pair of a group is matched, and each part learns from its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_helpers import POOL, STILL, loss_of, made, views_and_ids
from training_helpers import synthetic_batch

from sir_jax.losses.fused_score import fused_score
from sir_jax.objective import total
from sir_jax.objective.lists import group_odds, list_term

LISTS = {"loss.sim.weight": 0.7, "loss.sim.list_weight": 0.5, "data.groups": 4, **POOL, **STILL}


@pytest.fixture(scope="module")
def both():
    return made(**LISTS, **{"loss.sim.teach_weight": 0.3, "model.match.kind": "both"})


def test_the_odds_of_a_group_are_those_of_its_pairs_one_by_one(both):
    _, model, state = both
    views, _ = views_and_ids(model)
    odds = jax.jit(lambda p: group_odds(views, p, jax.random.key(0), model, 2))(state.params)
    assert list(odds) == ["sim_list", "sim_pooled_list"]

    @jax.jit
    def one(params, s, i):
        speech = jax.tree.map(lambda x: x[s], views.speech)
        image = jax.tree.map(lambda x: x[i], views.image)
        logits = model.apply({"params": params}, speech, image, method="match")
        p_s, p_i = (
            model.apply({"params": params}, x, name, method="pool")
            for x, name in ((speech, "speech"), (image, "image"))
        )
        cosine = (p_s * p_i).sum(axis=-1)
        return logits[:, 1] - logits[:, 0], jnp.exp(params["pooled_scale"]) * cosine + params[
            "pooled_bias"
        ]

    # Rows 0 to 2 are one group, 3 to 5 the other.
    pairs = [(3 * g + s, 3 * g + i) for g in range(2) for s in range(3) for i in range(3)]
    s, i = map(jnp.array, zip(*pairs, strict=True))
    # By GradCache the pairs go through the fusion encoder in pieces.
    in_pieces = jax.jit(lambda p: group_odds(views, p, jax.random.key(0), model, 2, 3))(
        state.params
    )
    np.testing.assert_allclose(in_pieces["sim_list"], odds["sim_list"], rtol=1e-5, atol=1e-6)
    for found, expected in zip(odds.values(), one(state.params, s, i), strict=True):
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-4, atol=1e-5)


def slow_lists(scores, ids, size: int) -> float:
    """Return the mean list-wise loss over groups, in float64."""
    losses = []
    for g in range(len(ids) // size):
        at = slice(g * size, (g + 1) * size)
        for matrix in (scores[g], scores[g].T):
            for row in range(size):
                own = [j for j in range(size) if ids[at][j] == ids[at][row]]
                log_p = matrix[row] - np.log(np.exp(matrix[row]).sum())
                losses.append(-np.mean(log_p[own]))
    return float(np.mean(losses))


def test_lists_are_ranked_as_search_ranks(both):
    cfg, model, state = both
    views, ids = views_and_ids(model)
    sim = cfg.loss.sim

    @jax.jit
    def run(params):
        given = {"model": model, "sim": sim, "groups": 2}
        loss, metrics = list_term(views, ids, 0.07, params, jax.random.key(0), **given)
        return loss, metrics, group_odds(views, params, jax.random.key(0), model, 2)

    loss, metrics, odds = run(state.params)
    z_s, z_i = (np.float64(x.embed).reshape(2, 3, -1) for x in (views.speech, views.image))
    similarity = np.einsum("gse,gie->gsi", z_s, z_i)
    for name, of_pairs in odds.items():
        scores = fused_score(similarity, 0.07, np.float64(of_pairs))
        assert float(metrics[name]) == pytest.approx(slow_lists(scores, np.array(ids), 3), rel=1e-5)
    taught = []
    # The last odds, the pooled match's, are what is taught.
    student = similarity / 0.07
    for axis in (1, 2):
        p = np.exp(scores) / np.exp(scores).sum(axis=axis, keepdims=True)
        log_q = student - np.log(np.exp(student).sum(axis=axis, keepdims=True))
        taught.append(-(p * log_q).sum(axis=axis).mean())
    assert float(metrics["sic_taught"]) == pytest.approx(np.mean(taught), rel=1e-5)
    m = {name: float(value) for name, value in metrics.items()}
    expected = 0.5 * (m["sim_list"] + m["sim_pooled_list"]) + 0.3 * m["sic_taught"]
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_the_match_learns_from_lists_and_the_embedding_from_what_it_is_taught_alone(both):
    cfg, model, state = both
    views, ids = views_and_ids(model)

    def grads(**weights):
        sim = cfg.copy_and_resolve_references().loss.sim
        sim.update(weights)

        def run(params, z):
            told = views._replace(speech=views.speech._replace(embed=z))
            given = {"model": model, "sim": sim, "groups": 2}
            return list_term(told, ids, 0.07, params, jax.random.key(0), **given)[0]

        return jax.jit(jax.grad(run, (0, 1)))(state.params, views.speech.embed)

    learnt, z = grads(list_weight=1.0, teach_weight=0.0)
    assert not np.any(z)
    for name in ("fusion", "match_head", "pool_speech", "pooled_scale"):
        assert max(np.abs(x).max() for x in jax.tree.leaves(learnt[name])) > 0, name
    learnt, z = grads(list_weight=0.0, teach_weight=1.0)
    assert np.abs(z).max() > 0
    assert not any(np.any(x) for x in jax.tree.leaves(learnt))


def test_lists_are_part_of_the_loss(both):
    cfg, model, state = both
    batch = synthetic_batch(cfg)
    loss, aux = loss_of(cfg, model, state, batch)
    m = {name: float(value) for name, value in aux.metrics.items()}
    within = 0.5 * (m["sim_list"] + m["sim_pooled_list"]) + 0.3 * m["sic_taught"]
    assert float(loss) == pytest.approx(
        m["sic"] + 0.7 * (m["sim"] + m["sim_pooled"] + within), rel=1e-5
    )
    # One right of three, as each row has both negatives.
    assert m["sim_prior"] == pytest.approx(np.log(3) - 2 / 3 * np.log(2), rel=1e-5)


def test_lists_over_the_batch_have_all_its_pairs():
    """Also without groups; each row then finds its own among those of all groups."""
    over = {"loss.sim.list_over": "batch", "model.match.kind": "pooled", "data.groups": 0}
    cfg, model, state = made(**LISTS | over)
    views, ids = views_and_ids(model)

    @jax.jit
    def run(params):
        loss, metrics = total.Objective(model, cfg).matching_loss(
            views, params, ids, jax.random.split(jax.random.key(0)), 1, None
        )
        return metrics, group_odds(views, params, jax.random.key(0), model, 1)["sim_list"]

    metrics, odds = run(state.params)
    assert odds.shape == (1, len(ids), len(ids))
    similarity = np.float64(views.speech.embed) @ np.float64(views.image.embed).T
    scores = fused_score(similarity, float(state.params["temperature"]), np.float64(odds[0]))
    expected = slow_lists(scores[None], np.array(ids), len(ids))
    assert float(metrics["sim_list"]) == pytest.approx(expected, rel=1e-5)


def test_noise_and_lists_are_by_groups(both, monkeypatch):
    cfg, model, state = both
    cfg = cfg.copy_and_resolve_references()
    cfg.loss.cmd.update(weight=1.0, source="group")
    asked = []

    def noted(*args, groups, **more):
        asked.append(groups)
        return jnp.zeros(()), {}

    monkeypatch.setattr(total, "draw_tasks", noted)
    monkeypatch.setattr(total, "cmd_term", lambda *args, **more: (jnp.zeros(()), {}))
    monkeypatch.setattr(total, "list_term", noted)
    batch = synthetic_batch(cfg)
    arrays = state.params, state.ema_params, state.queue, batch, jnp.int32(0), jax.random.key(1)
    for source, over in (("group", "group"), ("shard", "batch")):
        cfg.loss.cmd.source, cfg.loss.sim.list_over = source, over
        jax.eval_shape(functools.partial(total.loss_fn, model=model, cfg=cfg, shards=4), *arrays)
    # Eight rows are two groups of four, on four devices; and one batch.
    assert asked == [2, 2, 4, 1]
