"""Noise of tokens that are alike: the sets against NumPy in float64, and a case made by hand."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.losses.denoising import Noise, add_noise, draw_alike

# Items 0 and 2 are of one image; item 1 is a CLS token alone; item 5 has no token at all.
IDS = np.array([0, 1, 0, 2, 3, 4])
LENGTHS = np.array([9, 1, 6, 4, 9, 0])
# Not more: XLA 0.10.2 for CPUs gives wrong cosines beyond the 32,768th where one side, here the
# tokens, is the same for all draws. In the objective each group has tokens of its own.
TIME, RATIO, DRAWS = 9, 0.4, 600
MASK = np.arange(TIME) < LENGTHS[:, None]
SIZES = {0: 3, 2: 2, 3: 1, 4: 3}  # of 8, 5, 3 and 8 usable tokens

draw_each = jax.jit(jax.vmap(draw_alike, (0, *[None] * 5)), static_argnums=5)


@cache
def tokens():
    x = np.random.default_rng(3).normal(size=(6, TIME, 5)).astype(np.float32)
    x[~MASK] = np.nan  # what padding holds is nobody's business
    return x


@cache
def draws() -> Noise:
    """Draw noise DRAWS times; each field is [DRAWS, B, T]."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return Noise(*map(np.asarray, draw_each(keys, tokens(), MASK, IDS, RATIO, 1)))


def sets_of(item: int) -> list[tuple[int, ...]]:
    """Return for each token of an item its set, the most alike first."""
    x = np.float64(tokens()[item, 1 : LENGTHS[item]])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return [tuple(1 + np.argsort(-(x @ one))[: SIZES[item]]) for one in x]


def test_an_items_set_is_what_is_most_like_one_of_its_tokens():
    replaced = draws().replaced
    assert not replaced[:, [1, 5]].any()
    for item in SIZES:
        seen = [frozenset(np.nonzero(one)[0]) for one in replaced[:, item]]
        expected = [frozenset(one) for one in sets_of(item)]
        # Each token is drawn as often as any other one.
        assert {*seen} == {*expected}
        for one in expected:
            p = expected.count(one) / len(expected)
            assert abs(seen.count(one) / DRAWS - p) <= 4 * np.sqrt(p * (1 - p) / DRAWS), one


def test_a_set_gives_way_to_the_set_of_one_other_image_in_its_order():
    replaced, rows, columns = draws()
    sources = {item: [] for item in SIZES}
    for draw in range(200):
        for item in SIZES:
            at = np.nonzero(replaced[draw, item])[0]
            (source,) = {*rows[draw, item, at]}
            sources[item].append(source)
            theirs = {*np.nonzero(replaced[draw, source])[0]}
            # The place of both within their sets, of the token that either was drawn for.
            own = [s for s in sets_of(item) if {*s} == {*at}]
            used = [s for s in sets_of(source) if {*s} == theirs]
            taken = dict(zip(at, columns[draw, item, at], strict=True))
            assert any(
                all(taken[t] == u[n % len(u)] for n, t in enumerate(s)) for s in own for u in used
            )
    assert {item: {*found} for item, found in sources.items()} == {
        0: {3, 4}, 2: {3, 4}, 3: {0, 2, 4}, 4: {0, 2, 3}
    }  # fmt: skip


@pytest.mark.parametrize("first", [0, 1])
def test_a_whole_thing_gives_way_to_a_whole_thing(first):
    # Two pictures of two things each, of three and four patches; token 0 is of neither.
    things = np.array([[0, 1, 1, 2, 1, 2, 2, 2], [0, 4, 3, 4, 4, 3, 3, 3]])[:, 1 - first :]
    x = 3 * jnp.eye(5)[things]
    mask, keys = np.ones(things.shape, bool), jax.random.split(jax.random.key(1), 40)
    ratio = 3 / 7  # three tokens
    noise = jax.device_get(draw_each(keys, x, mask, np.array([8, 9]), ratio, first))
    noisy = jax.device_get(jax.vmap(lambda n: add_noise(x, n))(noise)).argmax(axis=-1)
    pairs = set()
    for one, replaced in zip(noisy, noise.replaced, strict=True):
        assert list(replaced.sum(axis=1)) == [3, 3] and not replaced[:, :first].any()
        for item in (0, 1):
            (old,), (new,) = {*things[item, replaced[item]]}, {*one[item, replaced[item]]}
            np.testing.assert_array_equal(one[item][~replaced[item]], things[item][~replaced[item]])
            pairs.add((int(old), int(new)))
    assert pairs == {(a, b) for a in (1, 2) for b in (3, 4)} | {
        (b, a) for a in (1, 2) for b in (3, 4)
    }


def test_a_batch_of_one_image_is_left_as_it_is_and_few_tokens_are_one_at_least():
    keys = jax.random.split(jax.random.key(0), 20)
    same = draw_each(keys, tokens(), MASK, np.full(6, 3), 1.0, 1)
    assert not same.replaced.any()
    few = draw_each(keys, tokens(), MASK, IDS, 0.01, 1)
    np.testing.assert_array_equal(few.replaced.sum(axis=2), [[1, 0, 1, 1, 1, 0]] * 20)
    every = draw_each(keys, tokens(), MASK, IDS, 1.0, 1)
    usable = MASK & (np.arange(TIME) > 0) & (LENGTHS > 1)[:, None]
    np.testing.assert_array_equal(every.replaced, np.broadcast_to(usable, (20, 6, TIME)))


def test_zero_vectors_are_drawn_too_and_no_gradient_flows():
    x = jnp.zeros((2, 4, 3))
    noise = draw_alike(jax.random.key(0), x, np.ones((2, 4), bool), np.array([1, 2]), 0.3)
    np.testing.assert_array_equal(noise.replaced.sum(axis=1), [1, 1])

    def loss(x):
        noise = draw_alike(jax.random.key(0), x, np.ones((2, 4), bool), np.array([1, 2]), 0.7)
        return add_noise(x, noise).sum(), noise

    grad, noise = jax.jit(jax.grad(loss, has_aux=True))(x + 1.0)
    np.testing.assert_array_equal(grad, np.repeat(~noise.replaced[..., None], 3, axis=2))
