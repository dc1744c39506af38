"""`loss.max_relative`: what it leaves out of both losses, against float64, number by number."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_helpers import loss_of, made
from tiny_models import tiny_config
from training_helpers import synthetic_batch

from sir_jax.losses.false_negatives import false_negatives
from sir_jax.losses.matching import hard_negatives
from sir_jax.losses.queue import Queue
from sir_jax.objective.terms import barred_pairs, sic_term
from sir_jax.objective.total import relative_limit
from sir_jax.objective.views import Views

IDS, PAST_IDS, FILLED = np.array([3, 4, 4, 5, 6, 7]), np.array([3, 9, 7, 8, 4, 9, 3]), 5
TAU = 0.1


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    """Return unit vectors around one direction, so that some pairs are above and some below."""
    rng = np.random.default_rng(4)
    one = rng.normal(size=8)
    out = {
        name: unit(one + 0.8 * rng.normal(size=(n, 8)))
        for name, n in {"z_s": 6, "z_i": 6, "m_s": 6, "m_i": 6, "past_s": 7, "past_i": 7}.items()
    }
    # Below 0 a true pair tells nothing.
    out["z_s"][3], out["m_s"][3] = -out["z_i"][3], -out["m_i"][3]
    return out


def left_out(a, b, past, share, limit_ids=PAST_IDS):
    """Return which columns of each row are left out, in float64."""
    columns = [(x.astype(float), n) for x, n in zip((*b, *past), (*IDS, *limit_ids), strict=True)]
    out = np.zeros((len(a), len(columns)), bool)
    for i, row in enumerate(a.astype(float)):
        true = row @ b[i].astype(float)
        for j, (column, n) in enumerate(columns):
            out[i, j] = n != IDS[i] and true > 0 and row @ column > share * true
    return out


def reference(z, keys, past, barred, teacher=None, alpha=0.0):
    """Return one direction of SIC in float64: softmax and targets know nothing of the barred."""
    columns = np.concatenate([keys, past[:FILLED]]).astype(float)
    ids = np.concatenate([IDS, PAST_IDS[:FILLED]])
    losses = []
    for i, row in enumerate(z.astype(float)):
        kept = np.flatnonzero(~barred[i, : len(columns)])

        def log_softmax(query, kept=kept):
            logits = columns[kept] @ query / TAU
            return logits - np.log(np.exp(logits).sum())

        hard = ids[kept] == IDS[i]
        targets = (1 - alpha) * hard / hard.sum()
        if teacher is not None:
            targets = targets + alpha * np.exp(log_softmax(teacher[i].astype(float)))
        losses.append(-targets @ log_softmax(row))
    return np.mean(losses)


@pytest.mark.parametrize(("teacher", "share"), [(True, 0.8), (False, 0.95)])
def test_contrast_is_that_of_the_columns_that_are_kept(vectors, teacher, share):
    v = vectors
    student = [SimpleNamespace(embed=jnp.asarray(v[name])) for name in ("z_s", "z_i")]
    momentum = [SimpleNamespace(embed=jnp.asarray(v[name])) for name in ("m_s", "m_i")]
    views = Views(*student, *(momentum if teacher else (None, None)))
    size = {"past_s": 7, "past_i": 7} if teacher else {"past_s": 0, "past_i": 0}
    past = {name: v[name][:n] for name, n in size.items()}
    past_ids = PAST_IDS[: len(past["past_s"])]
    queue = None
    if teacher:
        numbers = jnp.asarray(PAST_IDS), jnp.int32(FILLED), jnp.int32(FILLED)
        queue = Queue(*(jnp.asarray(past[name]) for name in past), *numbers)
    alpha = 0.4 if teacher else 0.0
    sic = SimpleNamespace(alpha=alpha)

    def loss_of_speech(z_s, share):
        changed = views._replace(speech=SimpleNamespace(embed=z_s))
        return sic_term(changed, queue, jnp.asarray(IDS), TAU, alpha, sic, share)

    loss, metrics = loss_of_speech(jnp.asarray(v["z_s"]), share)
    a, b = ("m_s", "m_i") if teacher else ("z_s", "z_i")
    out_s = left_out(v[a], v[b], past["past_i"], share, past_ids)
    out_i = left_out(v[b], v[a], past["past_s"], share, past_ids)
    assert 0.1 < out_s.mean() < 0.7 and not out_s[3].any()
    soft = (v["m_s"], alpha) if teacher else ()
    expected = reference(v["z_s"], v[b], past["past_i"], out_s, *soft)
    soft = (v["m_i"], alpha) if teacher else ()
    expected = (expected + reference(v["z_i"], v[a], past["past_s"], out_i, *soft)) / 2
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    same = np.concatenate([IDS, past_ids])[None, :] == IDS[:, None]
    filled = np.arange(same.shape[1]) < len(IDS) + FILLED
    expected = ((out_s | out_i) & filled)[:, filled].sum() / (~same & filled).sum()
    np.testing.assert_allclose(metrics["sic_masked"], expected, rtol=1e-6)
    # Infinity leaves nothing out, to the bit.
    plain, _ = loss_of_speech(jnp.asarray(v["z_s"]), None)
    assert loss_of_speech(jnp.asarray(v["z_s"]), jnp.inf)[0] == plain != loss
    grad = jax.grad(lambda z: loss_of_speech(z, share)[0])(jnp.asarray(v["z_s"]))
    assert np.isfinite(grad).all() and (np.abs(grad).sum(axis=1) > 0).all()


def test_mining_draws_none_of_the_pairs_that_are_left_out(vectors):
    z_s, z_i = vectors["z_s"], vectors["z_i"]
    views = Views(*(SimpleNamespace(embed=jnp.asarray(z)) for z in (z_s, z_i)), None, None)
    barred = [np.asarray(x)[0] for x in barred_pairs(views, jnp.asarray(IDS), 1, 0.8)]
    none = z_s[:0]
    expected = left_out(z_s, z_i, none, 0.8, []), left_out(z_i, z_s, none, 0.8, [])
    for ours, theirs, scores in zip(barred, expected, (z_s @ z_i.T, z_i @ z_s.T), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.any() and not ours.all(axis=1).any()
        keys = jax.random.split(jax.random.key(0), 400)
        draw = jax.vmap(lambda key, s=scores, x=ours: hard_negatives(key, s / TAU, IDS, x))
        drawn, valid = jax.tree.map(np.asarray, draw(keys))
        allowed = ~ours & (IDS[:, None] != IDS[None, :])
        assert (valid == allowed.any(axis=1)).all()
        for row in np.flatnonzero(allowed.any(axis=1)):
            assert set(drawn[:, row]) <= set(np.flatnonzero(allowed[row]))
    # Within a device's part, as rows alone there.
    halves = barred_pairs(views, jnp.asarray(IDS), 2, 0.8)
    for half, whole in zip(halves, barred, strict=True):
        np.testing.assert_array_equal(half[0], whole[:3, :3])
        np.testing.assert_array_equal(half[1], whole[3:, 3:])
    assert barred_pairs(views, jnp.asarray(IDS), 1, None) == (None, None)


def test_a_row_without_a_negative_that_is_left_counts_for_nothing():
    same = jnp.eye(2, dtype=bool)
    z = jnp.asarray(unit(np.ones((2, 4))))
    barred = false_negatives(z, z, z[:0], same, 0.95)
    assert barred.tolist() == [[False, True], [True, False]]
    _, valid = hard_negatives(jax.random.key(0), jnp.zeros((2, 2)), jnp.arange(2), barred)
    assert not valid.any()


def test_the_limit_is_off_before_the_groups_and_at_0_and_1():
    later = {"loss.max_relative": 0.5, "data.groups": 2, "data.grouped_after": 7}
    losses = {}
    for name, fields in {"off": {}, "later": later}.items():
        cfg, model, state = made(**fields)
        for step in (6, 7):
            loss, aux = loss_of(cfg, model, state, synthetic_batch(cfg), step=step)
            losses[name, step] = float(loss)
            assert (aux.embeds is None) == (name == "off")
            assert ("sic_masked" in aux.metrics) == (name == "later")
    assert losses["off", 6] == losses["off", 7] == losses["later", 6] != losses["later", 7]
    for share in (0.0, 1.0):
        assert relative_limit(tiny_config(**later | {"loss.max_relative": share}), 9) is None
