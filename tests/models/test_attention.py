"""Attention, dense products and group statistics: values and gradients against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.models import attention
from sir_jax.models.attention import attend
from sir_jax.models.hubert import MaskedGroupNorm
from sir_jax.models.layers import dense


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(q, k, v, mask, d_out):
    """Return the output and the gradients of sum(out * d_out) by q, k and v, in float64."""
    q, k, v, d_out = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v, d_out))
    scale = q.shape[-1] ** -0.5
    logits = scale * q @ k.swapaxes(-1, -2)
    if mask is not None:
        # Without a valid key every key counts alike.
        dead = ~mask.any(axis=1)
        logits = np.where((mask | dead[:, None])[:, None, None], logits, -np.inf)
        logits[dead] = 0.0
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = weights @ v
    d_weights = d_out @ v.swapaxes(-1, -2)
    d_logits = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
    grads = d_logits @ k, d_logits.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ d_out
    return out.swapaxes(1, 2), [g.swapaxes(1, 2) for g in grads]


def inputs(b=5, t=7, s=9, h=3, width=4):
    arrays = [rand(b, n, h, width, seed=i) for i, n in enumerate((t, s, s, t))]
    mask = np.arange(s)[None] < np.array([s, 1, 4, s - 1, 2])[:b, None]
    return arrays, mask


def assert_exact(run, arrays, mask):
    q, k, v, d_out = arrays
    out, grads = reference(q, k, v, mask, d_out)
    np.testing.assert_allclose(run(q, k, v, mask), out, atol=2e-6)
    got = jax.grad(lambda q, k, v: (run(q, k, v, mask) * d_out).sum(), (0, 1, 2))(q, k, v)
    for a, b in zip(got, grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients(masked):
    arrays, mask = inputs()
    assert_exact(attend, arrays, mask if masked else None)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_groups_of_rows_change_nothing(monkeypatch, rows):
    arrays, mask = inputs()
    calls = []
    whole = attention._forward_all
    monkeypatch.setattr(attention, "_GROUP_BYTES", rows * 4 * 3 * 7 * 9)
    monkeypatch.setattr(
        attention, "_forward_all", lambda q, *rest: calls.append(q.shape[0]) or whole(q, *rest)
    )
    assert_exact(attend, arrays, mask)
    # Each lowering traces the branch for CPU, in groups, and the one for other platforms, whole.
    groups = [rows] * (5 // rows) + [5 % rows] * (5 % rows > 0)
    assert "".join(map(str, groups)) in "".join(map(str, calls))


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_queries_of_a_long_row_go_in_pieces(monkeypatch, pieces):
    arrays, mask = inputs()
    row = 4 * 3 * 7 * 9
    monkeypatch.setattr(attention, "_ROW_BYTES", -(-row // pieces))
    seen = []
    whole = attention._forward_all
    monkeypatch.setattr(
        attention, "_forward_all", lambda q, *rest: seen.append(q.shape[2]) or whole(q, *rest)
    )
    assert_exact(attend, arrays, mask)
    assert set(seen) == {-(-7 // pieces)}


def test_no_valid_key_gives_the_mean_of_the_values():
    (q, k, v, d_out), _ = inputs(b=2)
    mask = np.array([[True] * 9, [False] * 9])
    out = attend(q, k, v, mask)
    np.testing.assert_allclose(out[1], np.broadcast_to(v[1].mean(0), out[1].shape), atol=1e-6)
    d_v = jax.grad(lambda v: (attend(q, k, v, mask) * d_out).sum())(v)
    mean = np.broadcast_to(d_out[1].astype(np.float64).sum(0) / 9, d_v[1].shape)
    np.testing.assert_allclose(d_v[1], mean, atol=1e-6)


def test_bfloat16_stays_near_and_keeps_its_dtype():
    (q, k, v, d_out), mask = inputs()
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out, grads = reference(q, k, v, mask, d_out)
    got = attend(*half, mask)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), out, atol=0.05)
    d_got = jax.grad(
        lambda q, k, v: (attend(q, k, v, mask).astype(jnp.float32) * d_out).sum(), (0, 1, 2)
    )(*half)
    for a, b in zip(d_got, grads, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.1)


def test_nothing_of_size_queries_times_keys_is_kept_for_the_backward_pass():
    t, s = 40, 50
    q, k, v = rand(2, t, 2, 4), rand(2, s, 2, 4, seed=1), rand(2, s, 2, 4, seed=2)
    mask = np.ones((2, s), bool)
    _, backward = jax.vjp(lambda q, k, v: attend(q, k, v, mask), q, k, v)
    kept = [x.size for x in jax.tree.leaves(backward)]
    assert kept and max(kept) < 2 * 2 * t * s


def test_gradient_is_the_same_under_jit_and_checkpoint():
    (q, k, v, d_out), mask = inputs()

    def loss(attend):
        return lambda q, k, v: (attend(q, k, v, mask) * d_out).sum()

    plain = jax.grad(loss(attend), (0, 1, 2))(q, k, v)
    again = jax.jit(jax.grad(loss(jax.checkpoint(attend)), (0, 1, 2)))(q, k, v)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 2, 3, 6)])
def test_dense_value_and_gradients(shape):
    x, d_out = rand(*shape), rand(*shape[:-1], 5, seed=1)
    module = dense(5, jnp.float32)
    params = {"kernel": rand(6, 5, seed=2), "bias": rand(5, seed=3)}

    def loss(params, x):
        return (module.apply({"params": params}, x) * d_out).sum()

    out = x.astype(np.float64) @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), out, atol=1e-5)
    d_params, d_x = jax.grad(loss, (0, 1))(params, x)
    rows, d_rows = x.reshape(-1, 6).astype(np.float64), d_out.reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(d_params["kernel"], rows.T @ d_rows, atol=1e-5)
    np.testing.assert_allclose(d_params["bias"], d_rows.sum(0), atol=1e-5)
    np.testing.assert_allclose(d_x, d_out.astype(np.float64) @ params["kernel"].T, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_group_statistics_of_long_skewed_offset_frames(batch):
    # Ten seconds of frames, far off zero beside their spread, with outliers.
    frames = 32_000
    x = np.random.default_rng(0).exponential(size=(batch, frames, 4)).astype(np.float32) ** 2 + 5
    lengths = np.array([frames, 20_001, 1])[:batch]
    mask = np.arange(frames)[None] < lengths[:, None]
    module = MaskedGroupNorm(1e-5)
    params = {"scale": rand(4, seed=1), "bias": rand(4, seed=2)}
    got = np.asarray(module.apply({"params": params}, x, mask))
    for row, length in enumerate(lengths):
        valid = x[row, :length].astype(np.float64)
        wanted = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5)
        wanted = wanted * params["scale"] + params["bias"]
        # A float32 sum of 32,000 values far from zero is good to 1e-5 of them.
        np.testing.assert_allclose(got[row, :length], wanted, atol=3e-5, rtol=1e-5)
