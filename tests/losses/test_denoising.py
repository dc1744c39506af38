"""Cross-modal denoising: which noise is drawn, how often, and the loss against NumPy and torch."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sir_jax.losses import denoising as losses
from sir_jax.losses.denoising import FORMS, Noise, draw_noise

# Each as one program a shape: one an operation would be hundreds to compile.
add_noise, cosine, other_rows, replacements = map(
    jax.jit, (losses.add_noise, losses.cosine, losses.other_rows, losses.replacements)
)
denoising = jax.jit(losses.denoising, static_argnums=(4, 5))

# Items 0 and 2 are of one image; item 1 is a CLS token alone; item 5 has no token at all.
IDS = np.array([0, 1, 0, 2, 3, 4])
LENGTHS = np.array([9, 1, 6, 4, 9, 0])
TIME = 9
MASK = np.arange(TIME) < LENGTHS[:, None]
DRAWS = 5_000

blocks_and_firsts = pytest.mark.parametrize("block,first", [(1, 1), (4, 1), (1, 0), (4, 0)])


def usable(first=1):
    """Tell which tokens may be replaced or used as replacements, [B, T]."""
    return MASK & (np.arange(TIME) >= first)


@jax.jit
@partial(jax.vmap, in_axes=(0, *[None] * 5))
def draw_each(key, mask, ids, ratio, block, first):
    # `block` and `first` are traced, so that one program serves all tests.
    return draw_noise(key, mask, ids, ratio, block, first)


@cache
def many_draws(block, first, ratio):
    """Draw noise DRAWS times; each field is [DRAWS, B, T]."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return Noise(*map(np.asarray, draw_each(keys, MASK, IDS, ratio, block, first)))


def within(actual, expected, draws, errors=4):
    """Tell whether a share of `draws` trials is within so many standard errors of a probability."""
    return abs(actual - expected) <= errors * np.sqrt(expected * (1 - expected) / draws)


@blocks_and_firsts
def test_padding_cls_and_the_own_image_are_never_touched(block, first):
    noise = many_draws(block, first, 0.3)
    allowed = usable(first)
    assert not noise.replaced[:, ~allowed].any()
    _, item, _ = np.nonzero(noise.replaced)
    rows, columns = noise.rows[noise.replaced], noise.columns[noise.replaced]
    assert (IDS[rows] != IDS[item]).all()
    assert allowed[rows, columns].all()
    # Over many draws every token that may be replaced or used is; token 0 too if it is no CLS.
    assert (noise.replaced.any(axis=0) == allowed).all()
    used = np.zeros_like(allowed)
    used[rows, columns] = True
    assert (used == allowed).all()


@blocks_and_firsts
def test_every_token_is_replaced_as_often_as_the_ratio(block, first):
    for ratio in (0.3, 0.75):
        share = many_draws(block, first, ratio).replaced.mean(axis=0)
        assert all(within(x, ratio, DRAWS) for x in share[usable(first)])


@pytest.mark.parametrize("block", [1, 4])
def test_tokens_come_evenly_from_every_other_item_and_place(block):
    noise = many_draws(block, 1, 0.75)
    for item, position in ((0, 1), (3, 3), (4, 8)):
        here = noise.replaced[:, item, position]
        rows, columns = noise.rows[here, item, position], noise.columns[here, item, position]
        sources = [j for j in range(6) if IDS[j] != IDS[item] and LENGTHS[j] > 1]
        for source in sources:
            for column in range(1, LENGTHS[source]):
                share = ((rows == source) & (columns == column)).mean()
                assert within(share, 1 / len(sources) / (LENGTHS[source] - 1), here.sum())


def test_block_of_one_draws_every_token_by_itself():
    noise = many_draws(1, 1, 0.75)
    both = noise.replaced[:, 4, 5] & noise.replaced[:, 4, 6]
    assert within(both.mean(), 0.75**2, DRAWS)
    next_place = noise.columns[both, 4, 6] == noise.columns[both, 4, 5] + 1
    same = noise.rows[both, 4, 6] == noise.rows[both, 4, 5]
    assert within(same.mean(), 1 / 3, both.sum())  # items 0, 2 and 3
    assert next_place[same].mean() < 0.3


def test_runs_begin_at_a_random_phase():
    # Two neighbours are in one run of 4 with probability 3/4, wherever they are.
    noise = many_draws(4, 1, 0.3)
    for position in range(1, 8):
        both = noise.replaced[:, 4, position] & noise.replaced[:, 4, position + 1]
        assert within(both.mean(), 0.3 * 0.75 + 0.3**2 * 0.25, DRAWS)


@pytest.mark.parametrize("block", [3, 4, 7])
def test_a_run_is_neighbours_of_one_item(block):
    # At ratio 1 every token is replaced, in runs that start at some offset. A run of 4 or 7 wraps
    # around an item of 3 usable tokens.
    noise = many_draws(block, 1, 1.0)
    length = LENGTHS - 1
    around = 0
    for draw in range(200):
        for item in (0, 2, 3, 4):
            positions = np.arange(1, LENGTHS[item])
            rows, columns = (x[draw, item, positions] for x in (noise.rows, noise.columns))
            # Columns start at 1, so the one after c is c % length + 1.
            joined = rows[1:] == rows[:-1]
            joined &= columns[1:] == columns[:-1] % length[rows[1:]] + 1
            around += (joined & (columns[1:] < columns[:-1])).sum()
            cuts = [(positions[1:] - 1 + phase) % block == 0 for phase in range(block)]
            assert any((joined | cut).all() for cut in cuts), (rows, columns)
    assert around > 50


def test_ratios_zero_and_one():
    assert not many_draws(1, 1, 0.0).replaced.any()
    for block, first in ((1, 1), (4, 1), (4, 0)):
        replaced = many_draws(block, first, 1.0).replaced
        np.testing.assert_array_equal(replaced, np.broadcast_to(usable(first), replaced.shape))


@pytest.mark.parametrize("block", [1, 4])
def test_a_batch_of_one_image_is_left_as_it_is(block):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    same = draw_each(keys, MASK, np.full(6, 3), 1.0, block, 1)
    assert not same.replaced.any()
    assert ((same.rows >= 0) & (same.rows < 6)).all()
    # Nothing can be taken from items that hold nothing but a CLS token.
    cls_only = MASK & (np.arange(TIME) < 1)
    cls_only[0] = MASK[0]
    alone = draw_each(keys, cls_only, IDS, 1.0, block, 1)
    assert not alone.replaced.any()


@pytest.mark.parametrize("block", [1, 4])
def test_a_key_fixes_the_noise_on_any_number_of_devices(block):
    rng = np.random.default_rng(0)
    mask, ids = np.arange(12) < rng.integers(1, 13, 32)[:, None], rng.integers(0, 20, 32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    draw = jax.jit(draw_noise, static_argnums=(3, 4))
    one = draw(jax.random.key(1), mask, ids, 0.5, block)
    eight = draw(jax.random.key(1), *jax.device_put((mask, ids), rows), 0.5, block)
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    assert (one.replaced != draw(jax.random.key(2), mask, ids, 0.5, block).replaced).any()


def test_noise_puts_in_exactly_the_tokens_it_names():
    tokens = np.random.default_rng(0).normal(size=(6, TIME, 3)).astype(np.float32)
    noise = jax.device_get(draw_noise(jax.random.key(0), MASK, IDS, 0.5, 2))
    noisy, offered = jax.device_get((add_noise(tokens, noise), replacements(tokens, noise)))
    assert noise.replaced.any()
    for item in range(6):
        for position in range(TIME):
            source = noise.rows[item, position], noise.columns[item, position]
            if noise.replaced[item, position]:
                np.testing.assert_array_equal(noisy[item, position], tokens[source])
                np.testing.assert_array_equal(offered[item, position], tokens[source])
            else:
                np.testing.assert_array_equal(noisy[item, position], tokens[item, position])
    assert add_noise(tokens.astype(jnp.bfloat16), noise).dtype == jnp.bfloat16
    # A token gets the gradient of its own position if it was kept there, and none from positions
    # that it was copied to.
    grad = jax.jit(jax.grad(lambda x: add_noise(x, noise).sum()))(tokens)
    np.testing.assert_array_equal(grad, np.repeat(~noise.replaced[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "ids,expected",
    [
        ([0, 1, 2, 3], [1, 2, 3, 0]),
        ([5, 5, 2, 5], [2, 2, 3, 2]),
        ([1, 2, 2, 1, 1], [1, 3, 3, 1, 1]),  # the search wraps around at the end
    ],
)
def test_other_rows_are_the_expected_ones(ids, expected):
    rows, exist = other_rows(jnp.array(ids))
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == jnp.int32 and exist.all()


@pytest.mark.parametrize("batch", [1, 4])
def test_other_rows_of_one_image(batch):
    rows, exist = other_rows(jnp.full(batch, 7))
    assert not exist.any()
    assert ((rows >= 0) & (rows < batch)).all()


@cache
def case():
    """Return arguments of `denoising`; item 3 has valid tokens of which none is replaced."""
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(6, TIME, 16)).astype(np.float32)
    rebuilt = (targets + 1.5 * rng.normal(size=targets.shape)).astype(np.float32)
    noise = Noise(*map(np.array, draw_noise(jax.random.key(0), MASK, IDS, 0.5, 2)))
    noise.replaced[3] = False
    assert noise.replaced[[0, 2, 4]].any(axis=1).all()
    return rebuilt, targets, noise, usable()


def per_token(rebuilt, targets, noise, valid, form, temperature):
    """Compute the docstring's formulas for each valid token, in float64."""
    r, v = rebuilt.astype(np.float64), targets.astype(np.float64)

    def cos(a, b):
        return np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)

    losses = np.zeros(valid.shape)
    for b, t in zip(*np.nonzero(valid), strict=True):
        if form == "cosine":
            losses[b, t] = 1 - cos(r[b, t], v[b, t])
        elif form == "mse":
            losses[b, t] = sum((r[b, t] - v[b, t]) ** 2) / r.shape[-1]
        else:
            own = [v[b, s] for s in np.nonzero(valid[b])[0]]
            replacing = [
                v[noise.rows[b, s], noise.columns[b, s]] for s in np.nonzero(noise.replaced[b])[0]
            ]
            terms = [np.exp(cos(r[b, t], k) / temperature) for k in own + replacing]
            losses[b, t] = np.log(sum(terms)) - cos(r[b, t], v[b, t]) / temperature
    return losses


every_form = pytest.mark.parametrize("form", FORMS)
replaced_or_all = pytest.mark.parametrize("replaced_only", [True, False])


@replaced_or_all
@every_form
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_float64_reference(form, replaced_only, temperature):
    rebuilt, targets, noise, valid = case()
    mean, counts = denoising(*case(), form, replaced_only, temperature)
    losses = per_token(*case(), form, float(np.float32(temperature)))
    counted = noise.replaced if replaced_only else valid
    assert mean.dtype == jnp.float32 and mean.shape == counts.shape == (6,)
    # Items 1 and 5 have no valid token; item 3 has no replaced one.
    np.testing.assert_array_equal(counts, [True, False, True, not replaced_only, True, False])
    for item in range(6):
        expected = losses[item][counted[item]].mean() if counted[item].any() else 0.0
        np.testing.assert_allclose(mean[item], expected, rtol=1e-6, atol=1e-6)


def in_torch(rebuilt, targets, noise, valid, form, replaced_only, temperature):
    """Compute the loss and its gradient item by item in torch float64."""
    leaf = torch.tensor(rebuilt, dtype=torch.float64, requires_grad=True)
    clean = torch.tensor(targets, dtype=torch.float64)
    means = []
    for item in range(len(leaf)):
        own, new = (np.nonzero(x[item])[0] for x in (valid, noise.replaced))
        counted = new if replaced_only else own
        if not len(counted):
            means.append(torch.zeros((), dtype=torch.float64))
            continue
        r, v = leaf[item, counted], clean[item, counted]
        if form == "cosine":
            means.append(1 - F.cosine_similarity(r, v, dim=-1).mean())
        elif form == "mse":
            means.append(F.mse_loss(r, v))
        else:
            others = clean[noise.rows[item, new], noise.columns[item, new]]
            keys = F.normalize(torch.cat([clean[item, own], others]), dim=-1)
            logits = F.normalize(r, dim=-1) @ keys.T / temperature
            means.append(F.cross_entropy(logits, torch.tensor(np.searchsorted(own, counted))))
    total = torch.stack(means)
    total.sum().backward()
    return total.detach().numpy(), leaf.grad.numpy()


@replaced_or_all
@every_form
def test_equals_torch_with_gradients(form, replaced_only):
    rebuilt, *rest = case()
    options = form, replaced_only, 0.07
    expected, expected_grad = in_torch(*case(), *options[:2], float(np.float32(0.07)))
    grad = jax.jit(jax.grad(lambda x: denoising(x, *rest, *options)[0].sum()))(rebuilt)
    np.testing.assert_allclose(denoising(*case(), *options)[0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


@replaced_or_all
@every_form
def test_targets_have_exactly_no_gradient(form, replaced_only):
    rebuilt, targets, *rest = case()
    by_both = jax.grad(lambda r, v: denoising(r, v, *rest, form, replaced_only)[0].sum(), (0, 1))
    by_rebuilt, by_targets = jax.jit(by_both)(rebuilt, targets)
    assert np.abs(by_rebuilt).max() > 0.01
    np.testing.assert_array_equal(by_targets, 0.0)


@cache
def value_and_grad(form, replaced_only):
    """Return a function of (rebuilt, targets)."""

    @jax.jit
    def step(rebuilt, targets):
        def loss(x):
            mean, counts = denoising(x, targets, *case()[2:], form, replaced_only)
            return mean.sum(), (mean, counts)

        return jax.value_and_grad(loss, has_aux=True)(rebuilt)

    return step


@replaced_or_all
@every_form
@pytest.mark.parametrize("garbage", [1e4, 1e15, 1e30])
def test_padding_and_cls_never_matter(form, replaced_only, garbage):
    rebuilt, targets, _, valid = case()
    step = value_and_grad(form, replaced_only)
    (_, expected), expected_grad = step(rebuilt, targets)
    huge = np.float32(garbage)
    where = valid[..., None]
    (_, actual), grad = step(np.where(where, rebuilt, huge), np.where(where, targets, -huge))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    np.testing.assert_array_equal(grad, expected_grad)


@every_form
def test_low_precision_tokens_are_compared_in_float32(form):
    rough = [jnp.asarray(x, jnp.bfloat16) for x in case()[:2]]
    exact = [x.astype(jnp.float32) for x in rough]
    np.testing.assert_array_equal(
        denoising(*rough, *case()[2:], form)[0], denoising(*exact, *case()[2:], form)[0]
    )


def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient():
    rebuilt, targets, noise, valid = case()
    zeros = np.zeros_like(rebuilt)
    np.testing.assert_array_equal(cosine(zeros, targets), 0.0)
    for form in FORMS:
        loss = lambda x, form=form: denoising(x, *case()[1:], form)[0].sum()  # noqa: E731
        grad = jax.jit(jax.grad(loss))(zeros)
        assert np.isfinite(grad).all()


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form 'l2' is none of cosine, mse, infonce"):
        denoising(*case(), "l2")
