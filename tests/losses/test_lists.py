"""Lists of a group's pairs: loss, teaching and the prior against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.losses.matching import list_matching, list_teaching, matching, prior_entropy

list_matching, list_teaching = jax.jit(list_matching), jax.jit(list_teaching)

IDS = np.array([4, 7, 7, 9, 2])


def group(seed: int = 0):
    """Return scores, similarities, and barred pairs of either side; never of one image."""
    rng = np.random.default_rng(seed)
    scores, similarities = (3 * rng.normal(size=(2, 5, 5))).astype(np.float32)
    barred = rng.random((2, 5, 5)) < 0.3
    barred &= IDS[:, None] != IDS[None, :]
    return scores, similarities, tuple(barred)


def soft(row, barred):
    """Return log softmax over what is not barred, float64; -inf elsewhere."""
    kept = np.where(barred, -np.inf, row.astype(np.float64))
    return kept - np.log(np.exp(kept - kept.max()).sum()) - kept.max()


@pytest.mark.parametrize("limited", [False, True])
def test_the_list_loss_is_that_of_a_loop_with_its_gradient(limited):
    scores, _, barred = group()
    given = barred if limited else (None, None)

    def slow(scores):
        losses = np.zeros(5)
        for matrix, bar in zip((scores, scores.T), barred, strict=True):
            for row in range(5):
                log_p = soft(matrix[row], bar[row] & limited)
                own = [column for column in range(5) if IDS[column] == IDS[row]]
                losses[row] -= 0.5 * np.mean([log_p[column] for column in own])
        return losses

    losses, right = list_matching(scores, IDS, given)
    np.testing.assert_allclose(losses, slow(scores), rtol=1e-5)
    kept = [
        np.where(bar & limited, -np.inf, x)
        for x, bar in zip((scores, scores.T), barred, strict=True)
    ]
    best = [IDS[x.argmax(axis=1)] == IDS for x in kept]
    np.testing.assert_allclose(right, np.mean(best, axis=0))
    grad = jax.grad(lambda x: list_matching(x, IDS, given)[0].sum())(scores)
    step = 1e-4
    for i, j in ((0, 0), (1, 2), (3, 1), (4, 0)):
        change = np.zeros((5, 5))
        change[i, j] = step
        up, down = slow(scores + change).sum(), slow(scores - change).sum()
        assert grad[i, j] == pytest.approx((up - down) / (2 * step), abs=1e-5)


@pytest.mark.parametrize("limited", [False, True])
def test_what_is_taught_is_that_of_a_loop_and_the_teacher_learns_nothing(limited):
    scores, similarities, barred = group(1)
    given = barred if limited else (None, None)
    expected = np.zeros(5)
    for teacher, student, bar in zip(
        (scores, scores.T), (similarities, similarities.T), barred, strict=True
    ):
        for row in range(5):
            bars = bar[row] & limited
            p, log_q = np.exp(soft(teacher[row], bars)), soft(student[row], bars)
            expected[row] -= 0.5 * sum(p[j] * log_q[j] for j in range(5) if not bars[j])
    losses = list_teaching(similarities, scores, given)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    d_student, d_teacher = jax.grad(lambda a, b: list_teaching(a, b, given).sum(), (0, 1))(
        similarities, scores
    )
    assert np.abs(d_student).max() > 0.1 and not np.any(d_teacher)
    # A student that says what its teacher says is at its best.
    still = jax.grad(lambda a: list_teaching(a, scores, given).sum())(scores)
    np.testing.assert_allclose(still, 0.0, atol=1e-6)


def test_barred_pairs_never_matter():
    scores, similarities, barred = group(2)
    other = np.where(barred[0] & barred[1].T, np.float32(80.0), scores)
    assert (other != scores).any()
    for fn in (lambda x: list_matching(x, IDS, barred)[0], lambda x: list_teaching(x, x, barred)):
        np.testing.assert_array_equal(fn(scores), fn(other))


@pytest.mark.parametrize("missing", [0, 3])
def test_the_prior_is_the_loss_of_the_best_constant(missing):
    valid = np.ones((4, 2), bool)
    valid.ravel()[:missing] = False
    true, all_of = 4, 12 - missing

    def constant(odds):
        logits = jnp.zeros((4, 3, 2)).at[..., 1].set(odds)
        losses, counted, _ = matching(logits, valid)
        return float(losses.sum() / counted.sum()), counted

    odds = np.log(true / (all_of - true))
    best, counted = constant(odds)
    assert float(prior_entropy(counted)) == pytest.approx(best, rel=1e-6)
    assert all(constant(odds + change)[0] > best for change in (-0.1, 0.1))


def test_pairs_that_are_all_true_have_no_entropy():
    counted = np.array([[True, False, False]] * 3)
    value, grad = jax.value_and_grad(lambda x: prior_entropy(counted) * x)(1.0)
    assert value == 0.0 and grad == 0.0
