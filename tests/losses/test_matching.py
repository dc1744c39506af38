"""Matching: which negatives are drawn, how often, and the loss against NumPy and torch."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sir_jax.losses import matching as losses_of_pairs

# Each as one program a shape: one an operation would be hundreds to compile.
hard_negatives, masked_mean, match_score, matching = map(
    jax.jit,
    (
        losses_of_pairs.hard_negatives,
        losses_of_pairs.masked_mean,
        losses_of_pairs.match_score,
        losses_of_pairs.matching,
    ),
)

DRAWS = 20_000
IDS = np.array([0, 0, 1, 2, 3, 3, 0])


@cache
def scores():
    x = 2 * np.random.default_rng(0).normal(size=(7, 7))
    x[1] = x[0]  # two rows with the same distribution
    return x.astype(np.float32)


@cache
def many_draws():
    """Return DRAWS drawn columns of each row, and their validity."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    draw = jax.jit(jax.vmap(hard_negatives, (0, None, None)))
    return jax.tree.map(np.asarray, draw(keys, scores(), IDS))


def albef_weights():
    """Return ALBEF's weights of the columns: a softmax, zeroed for columns with the row's id."""
    weights = F.softmax(torch.tensor(scores(), dtype=torch.float64) + 1e-4, dim=1)
    weights.masked_fill_(torch.tensor(IDS[:, None] == IDS), 0)
    return (weights / weights.sum(1, keepdim=True)).numpy()  # torch.multinomial normalises, too


def test_a_negative_is_always_of_another_image():
    drawn, valid = many_draws()
    assert drawn.dtype == np.int32 and valid.all()
    assert (IDS[drawn] != IDS).all()


def test_negatives_are_drawn_as_often_as_albef_draws_them():
    drawn, _ = many_draws()
    for row, expected in enumerate(albef_weights()):
        share = np.bincount(drawn[:, row], minlength=7) / DRAWS
        error = np.sqrt(expected * (1 - expected) / DRAWS)
        assert (np.abs(share - expected) <= 4 * error).all(), row


def test_rows_are_drawn_independently():
    drawn, _ = many_draws()
    agree = (albef_weights()[0] ** 2).sum()
    actual = (drawn[:, 0] == drawn[:, 1]).mean()
    assert abs(actual - agree) <= 4 * np.sqrt(agree * (1 - agree) / DRAWS)


def test_scores_of_any_size_keep_to_other_images():
    # Columns of the row's own image are by far the most similar; column 3 leads among the others.
    drawn, valid = jax.vmap(hard_negatives, (0, None, None))(
        jax.random.split(jax.random.key(1), 100),
        np.where(IDS[:, None] == IDS, 1e30, np.where(np.arange(7) == 3, 1e4, -1e4)),
        IDS,
    )
    assert np.all(valid)
    np.testing.assert_array_equal(np.delete(drawn, 3, axis=1), 3)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_row_without_a_negative_says_so(batch):
    drawn, valid = hard_negatives(
        jax.random.key(0), np.zeros((batch, batch), np.float32), np.full(batch, 9)
    )
    assert not np.any(valid)
    assert np.all((drawn >= 0) & (drawn < batch))
    # The meaningless draws have no loss, and no NaN in the gradient.
    logits = np.random.default_rng(0).normal(size=(batch, 3, 2)).astype(np.float32)
    absent = jnp.stack([valid, valid], axis=1)
    losses, counted, _ = matching(logits, absent)
    np.testing.assert_array_equal(counted, [[True, False, False]] * batch)
    grad = jax.jit(jax.grad(lambda x: masked_mean(*matching(x, absent)[:2])))(logits)
    assert np.isfinite(losses).all() and np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[:, 1:], 0.0)


def test_a_key_fixes_the_draw_on_any_number_of_devices():
    rng = np.random.default_rng(0)
    ids, many = rng.integers(0, 8, 32), rng.normal(size=(32, 32)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    draw = hard_negatives
    one = draw(jax.random.key(3), many, ids)
    eight = draw(jax.random.key(3), *jax.device_put((many, ids), rows))
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    eager = losses_of_pairs.hard_negatives(jax.random.key(3), many, ids)
    jax.tree.map(np.testing.assert_array_equal, one, eager)
    assert (one[0] != draw(jax.random.key(4), many, ids)[0]).any()


def test_no_gradient_goes_through_the_draw():
    z = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    fixed, _ = hard_negatives(jax.random.key(0), z @ z.T, IDS)

    def loss(z, drawn=None):
        if drawn is None:
            drawn, _ = hard_negatives(jax.random.key(0), z @ z.T, IDS)
        return jnp.sin(z * z[drawn]).sum()

    np.testing.assert_array_equal(jax.grad(loss)(z), jax.grad(lambda z: loss(z, fixed))(z))


@cache
def several_draws(count=3):
    """Return DRAWS of `count` columns of each row, and which exist; some columns are barred."""
    barred = np.zeros((7, 7), bool)
    barred[3, [0, 2, 4, 5, 6]] = True  # row 3 keeps one column, row 4 two, row 2 none
    barred[4, [0, 1, 6]] = barred[2] = True
    keys = jax.random.split(jax.random.key(2), DRAWS)
    draw = jax.vmap(partial(losses_of_pairs.several_hard_negatives, count=count), (0, *[None] * 3))
    drawn, valid = jax.tree.map(np.asarray, jax.jit(draw)(keys, scores(), IDS, barred))
    return drawn, valid, (IDS[:, None] != IDS) & ~barred


def test_a_row_draws_as_many_as_it_has_and_none_twice():
    drawn, valid, allowed = several_draws()
    assert drawn.dtype == np.int32 and drawn.shape == valid.shape == (DRAWS, 7, 3)
    assert list(allowed.sum(axis=1)) == [4, 4, 0, 1, 2, 5, 4]
    expected = np.arange(3) < allowed.sum(axis=1)[:, None]
    np.testing.assert_array_equal(valid, np.broadcast_to(expected, valid.shape))
    for row in range(7):
        columns = drawn[:, row, expected[row]]
        assert allowed[row][columns].all()
        assert (np.diff(np.sort(columns, axis=1), axis=1) > 0).all()


def test_several_are_drawn_one_after_the_other_from_those_that_are_left():
    drawn, _, allowed = several_draws()
    # Row 0 has four columns: the probability of each ordered three of them, in float64.
    weights = np.where(allowed[0], np.exp(np.float64(scores()[0])), 0.0)
    codes = drawn[:, 0] @ [49, 7, 1]
    for first, second, third in itertools.permutations(np.nonzero(allowed[0])[0], 3):
        left, p = weights.copy(), 1.0
        for column in (first, second, third):
            p *= left[column] / left.sum()
            left[column] = 0.0
        share = (codes == 49 * first + 7 * second + third).mean()
        assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / DRAWS), (first, second, third)


def test_one_of_several_is_the_draw_of_one():
    for seed in range(5):
        key = jax.random.key(seed)
        drawn, valid = losses_of_pairs.several_hard_negatives(key, scores(), IDS, count=1)
        logits = np.where(IDS[:, None] != IDS, scores(), -np.inf)
        np.testing.assert_array_equal(drawn[:, 0], jax.random.categorical(key, logits))
        assert valid.shape == (7, 1) and valid.all()


def reference(logits, valid):
    """Compute the negative log-probability of each pair's class in float64; 0 for absent pairs."""
    losses = np.zeros(logits.shape[:2])
    for row in range(len(logits)):
        for pair, label in enumerate((1, *[0] * valid.shape[1])):
            if pair and not valid[row, pair - 1]:
                continue
            own, other = (float(logits[row, pair, c]) for c in (label, 1 - label))
            losses[row, pair] = np.log1p(np.exp(other - own))
    return losses


def random_pairs(seed=0, batch=9, k=1):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(batch, 1 + 2 * k, 2))).astype(np.float32)
    valid = rng.random((batch, 2 * k)) < 0.6
    valid[0], valid[1] = False, np.arange(2 * k) < k
    return logits, valid


@pytest.mark.parametrize("k", [1, 3])
def test_equals_float64_reference(k):
    logits, valid = random_pairs(k=k)
    losses, counted, correct = matching(logits, valid)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, reference(logits, valid), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(counted[:, 0], True)
    np.testing.assert_array_equal(counted[:, 1:], valid)
    np.testing.assert_array_equal(correct[:, 0], logits[:, 0, 1] > logits[:, 0, 0])
    np.testing.assert_array_equal(correct[:, 1:], logits[:, 1:, 0] > logits[:, 1:, 1])
    # Of what always says the share of true pairs, the loss is the prior's entropy.
    p = len(valid) / (len(valid) + valid.sum())
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(losses_of_pairs.prior_entropy(counted), expected, rtol=1e-6)


@pytest.mark.parametrize("all_there", [True, False])
def test_equals_albef_in_torch_with_gradients(all_there):
    logits, valid = random_pairs()
    valid = valid | all_there
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    # ALBEF's order: the B true pairs, then the false ones that exist.
    false = torch.cat([leaf[torch.tensor(valid[:, k]), k + 1] for k in range(2)])
    labels = torch.cat([torch.ones(len(leaf)), torch.zeros(len(false))]).long()
    expected = F.cross_entropy(torch.cat([leaf[:, 0], false]), labels)
    expected.backward()

    step = jax.jit(jax.value_and_grad(lambda x: masked_mean(*matching(x, valid)[:2])))
    loss, grad = step(logits)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("garbage", [100.0, 1e30, np.inf, np.nan])
def test_absent_pairs_never_matter(garbage):
    logits, valid = random_pairs()
    step = jax.jit(jax.value_and_grad(lambda x: masked_mean(*matching(x, valid)[:2])))
    absent = np.concatenate([np.zeros((len(valid), 1), bool), ~valid], axis=1)
    other = np.where(absent[..., None], np.float32([garbage, -garbage]), logits)
    for a, b in zip(step(logits), step(other), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(step(other)[1][absent], 0.0)


def test_low_precision_logits_are_compared_in_float32():
    logits, valid = random_pairs()
    rough = jnp.asarray(logits, jnp.bfloat16)
    np.testing.assert_array_equal(
        matching(rough, valid)[0], matching(rough.astype(jnp.float32), valid)[0]
    )
    assert match_score(rough).dtype == jnp.float32


def test_match_score_is_the_log_odds():
    logits, _ = random_pairs()
    p = np.exp(logits.astype(np.float64))
    p = p / p.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        match_score(logits), np.log(p[..., 1] / p[..., 0]), rtol=1e-6, atol=1e-6
    )


def test_match_score_does_not_see_what_both_logits_share():
    logits = np.round(random_pairs()[0] * 64) / 64  # so that the sums are exact
    shift = np.float32([-16, 0.5, 1024])[None, :, None]
    np.testing.assert_array_equal(match_score(logits + shift), match_score(logits))


def test_masked_mean_has_the_expected_value_and_gradient():
    values = jnp.array([[1.0, 2.0], [np.nan, 6.0]])
    counted = jnp.array([[True, True], [False, True]])
    np.testing.assert_allclose(masked_mean(values, counted), 3.0)
    grad = jax.grad(masked_mean)(values, counted)
    np.testing.assert_allclose(grad, [[1 / 3, 1 / 3], [0, 1 / 3]], rtol=1e-6)


def test_masked_mean_of_nothing_is_zero():
    nothing = jnp.zeros((2, 2), bool)
    value, grad = jax.value_and_grad(masked_mean)(jnp.full((2, 2), np.inf), nothing)
    assert value == 0.0
    np.testing.assert_array_equal(grad, 0.0)
