"""A negative that a row has for itself: its logit and the loss beside it, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.losses.contrastive import contrastive, soft_negative

EXISTS = np.array([True, True, False, True])
WEIGHT, TAU, ALPHA = 0.4, 0.2, 0.3


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def case():
    """Return z, keys, teacher and negatives [4, 6], past [3, 6] of which two are filled, barred."""
    rng = np.random.default_rng(0)
    barred = np.zeros((4, 7), bool)
    barred[1, 3] = barred[0, 5] = True
    return *(unit(rng, 4, 6) for _ in range(4)), unit(rng, 3, 6), barred


def slow(z, keys, teacher, negative, past, barred, weight):
    """Return the mean loss, in float64."""
    z, keys, teacher, negative, past = map(np.float64, (z, keys, teacher, negative, past))
    absent = barred | (np.arange(7) == 6)  # the last row of the queue is not filled
    columns = np.concatenate([keys, past])
    soft = np.where(absent, 0.0, np.exp(teacher @ columns.T / TAU))
    targets = (1 - ALPHA) * np.eye(4, 7) + ALPHA * soft / soft.sum(axis=1, keepdims=True)
    losses = []
    for row in range(4):
        terms = np.where(absent[row], 0.0, np.exp(z[row] @ columns.T / TAU))
        total = terms.sum()
        if EXISTS[row]:
            total += weight * np.exp(z[row] @ negative[row] / TAU)
        of = targets[row] > 0
        losses.append(-(targets[row][of] * np.log(terms[of] / total)).sum())
    return float(np.mean(losses))


def fast(z, keys, teacher, negative, past, barred, weight):
    own = soft_negative(z, negative, EXISTS, weight, TAU)
    filled, hard = jnp.array([True, True, False]), jnp.eye(4, 7)
    loss, right = contrastive(z, keys, past, filled, hard, TAU, teacher, ALPHA, barred, own)
    return loss.mean(), right


@pytest.mark.parametrize("weight", [WEIGHT, 3.0])
def test_the_loss_and_its_gradients_are_those_of_float64(weight):
    given = case()
    run = jax.jit(jax.value_and_grad(lambda *a: fast(*a, weight), (0, 3), has_aux=True))
    (loss, right), grads = run(*given)
    assert float(loss) == pytest.approx(slow(*given, weight), rel=1e-5)
    # Accuracy is among the keys, as without it.
    z, keys, _, _, past, barred = given
    scores = np.where(barred, -9, z @ np.concatenate([keys, past]).T)[:, :6]
    assert float(right) == (scores.argmax(axis=1) == np.arange(4)).mean()
    grads = jax.device_get(grads)
    for number, grad in zip((0, 3), grads, strict=True):
        moved = [np.float64(x) for x in given[:5]]
        for place in ((0, 0), (1, 3), (2, 2), (3, 5)):
            values = []
            for step in (1e-5, -1e-5):
                moved[number][place] += step
                values.append(slow(*moved, given[5], weight))
                moved[number][place] -= step
            expected = (values[0] - values[1]) / 2e-5
            assert float(grad[place]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert not np.any(grads[1][2]) and np.abs(grads[1][[0, 1, 3]]).max() > 1e-3


def test_twice_the_weight_is_the_same_negative_twice():
    z, keys, _, negative, _, _ = case()
    run = jax.jit(
        lambda own: contrastive(z, keys, jnp.zeros((0, 6)), EXISTS[:0], jnp.eye(4), TAU, own=own)[0]
    )
    one = soft_negative(z, negative, EXISTS, 0.7, TAU)
    two = soft_negative(z, negative, EXISTS, 1.4, TAU)
    np.testing.assert_allclose(run(two), run(jnp.concatenate([one, one], axis=1)), rtol=1e-6)
    # A row without one has its loss as if there were none.
    absent = soft_negative(z, negative, ~EXISTS, 5.0, TAU)
    np.testing.assert_array_equal(run(absent)[EXISTS], run(None)[EXISTS])
    assert (run(absent) > run(None))[~EXISTS].all()
