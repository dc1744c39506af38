"""Attention, dense products and group statistics: values and gradients against float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.models import attention
from sir_jax.models.attention import attend
from sir_jax.models.hubert import MaskedGroupNorm
from sir_jax.models.layers import dense

ROW = 4 * 3 * 7 * 9  # bytes of the logits of one row of `inputs`


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(q, k, v, mask, d_out):
    """Return in float64 the output, and the gradients of sum(out * d_out) for q, k and v."""
    q, k, v, d_out = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v, d_out))
    scale = q.shape[-1] ** -0.5
    logits = scale * q @ k.swapaxes(-1, -2)
    if mask is not None:
        # Without a valid key all keys have equal weights.
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
    """Return [q, k, v, d_out], and a mask whose rows have all keys, 1, 4, all but one, and none."""
    arrays = [rand(b, n, h, width, seed=i) for i, n in enumerate((t, s, s, t))]
    return arrays, np.arange(s)[None] < np.array([s, 1, 4, s - 1, 0])[:b, None]


def value_and_grads(arrays, mask, attend=attend):
    q, k, v, d_out = arrays

    def loss(q, k, v):
        out = attend(q, k, v, mask)
        return (out.astype(jnp.float32) * d_out).sum(), out

    grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, grads


def assert_exact(arrays, mask):
    out, (d_q, d_k, d_v) = value_and_grads(arrays, mask)
    expected, (e_q, e_k, e_v) = reference(*arrays[:3], mask, arrays[3])
    np.testing.assert_allclose(out, expected, atol=2e-6)
    np.testing.assert_allclose(d_v, e_v, atol=5e-6)
    live = np.ones(len(out), bool) if mask is None else mask.any(axis=1)
    np.testing.assert_allclose(d_q[live], e_q[live], atol=5e-6)
    np.testing.assert_allclose(d_k[live], e_k[live], atol=5e-6)
    assert np.isfinite(d_q).all() and np.isfinite(d_k).all()


def softmaxes(arrays, mask):
    """Return the shapes of the weights that the CPU's program of value and gradient computes."""
    text = jax.jit(lambda *a: value_and_grads(a, mask)).lower(*arrays).as_text()
    shapes = re.findall(r"stablehlo.exponential .*tensor<([0-9x]+)xf32>", text)
    return [tuple(map(int, shape.split("x"))) for shape in shapes]


def set_sizes(monkeypatch, group=14 << 20, groups=16, row=1 << 30):
    monkeypatch.setattr(attention, "_GROUP_BYTES", group)
    monkeypatch.setattr(attention, "_MAX_GROUPS", groups)
    monkeypatch.setattr(attention, "_ROW_BYTES", row)


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients(masked):
    arrays, mask = inputs()
    assert softmaxes(arrays, mask if masked else None) == 2 * [(5, 3, 7, 9)]
    assert_exact(arrays, mask if masked else None)


# The size in bytes limits a group to 1, 2 or 3 rows; then at most four groups force 2 rows.
@pytest.mark.parametrize("rows, groups", [(1, 16), (2, 16), (3, 16), (2, 4)])
def test_groups_of_rows_change_nothing(monkeypatch, rows, groups):
    arrays, mask = inputs()
    set_sizes(monkeypatch, group=ROW * (rows if groups == 16 else 1), groups=groups)
    cuts = [rows] * (5 // rows) + [5 % rows] * (5 % rows > 0)
    assert softmaxes(arrays, mask) == 2 * [(n, 3, 7, 9) for n in cuts]
    assert_exact(arrays, mask)


@pytest.mark.parametrize("pieces, queries", [(2, 4), (3, 3), (7, 1)])
def test_queries_of_a_long_row_go_in_pieces(monkeypatch, pieces, queries):
    arrays, mask = inputs()
    set_sizes(monkeypatch, row=-(-ROW // pieces))
    assert softmaxes(arrays, mask) == 2 * [(5, 3, queries, 9)]
    assert_exact(arrays, mask)
    assert_exact(arrays, None)


def test_pieces_within_groups(monkeypatch):
    arrays, mask = inputs()
    set_sizes(monkeypatch, group=2 * ROW, row=-(-ROW // 3))
    assert softmaxes(arrays, mask) == 2 * [(2, 3, 3, 9), (2, 3, 3, 9), (1, 3, 3, 9)]
    assert_exact(arrays, mask)


def test_no_valid_key_gives_the_mean_of_the_values():
    (q, k, v, d_out), _ = inputs(b=2)
    out, (_, _, d_v) = value_and_grads((q, k, v, d_out), np.array([[True] * 9, [False] * 9]))
    np.testing.assert_allclose(out[1], np.broadcast_to(v[1].mean(0), out[1].shape), atol=1e-6)
    mean = np.broadcast_to(d_out[1].astype(np.float64).sum(0) / 9, d_v[1].shape)
    np.testing.assert_allclose(d_v[1], mean, atol=1e-6)


def test_masked_keys_change_nothing():
    (q, k, v, d_out), mask = inputs(b=4)
    hole = ~mask[..., None, None]
    other = [np.where(hole, np.float32(1e4), x) for x in (k, v)]
    for a, b in zip(
        jax.tree.leaves(value_and_grads((q, k, v, d_out), mask)),
        jax.tree.leaves(value_and_grads((q, *other, d_out), mask)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sizes", [{}, dict(group=2 * ROW), dict(row=ROW // 3)])
def test_bfloat16_stays_near_and_keeps_its_dtype(monkeypatch, sizes):
    set_sizes(monkeypatch, **sizes)
    arrays, mask = inputs(b=4)
    half = [jnp.asarray(x, jnp.bfloat16) for x in arrays[:3]]
    exact = [np.asarray(x, np.float64) for x in half]
    expected = reference(*exact, mask, arrays[3])
    actual = value_and_grads((*half, arrays[3]), mask)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.bfloat16
        # bfloat16 has eight bits of mantissa, and there are a few roundings.
        assert np.linalg.norm(np.asarray(a, np.float64) - b) < 0.01 * np.linalg.norm(b)


def test_nothing_of_size_queries_times_keys_is_kept_for_the_backward_pass():
    t, s = 40, 50
    q, k, v = rand(2, t, 2, 4), rand(2, s, 2, 4, seed=1), rand(2, s, 2, 4, seed=2)
    mask = np.ones((2, s), bool)
    _, backward = jax.vjp(lambda q, k, v: attend(q, k, v, mask), q, k, v)
    kept = [x.size for x in jax.tree.leaves(backward)]
    assert kept and max(kept) < t * s


def test_gradient_is_the_same_under_jit_and_checkpoint():
    arrays, mask = inputs()
    plain = value_and_grads(arrays, mask)
    for other in (jax.checkpoint(attend), jax.jit(attend), jax.jit(jax.checkpoint(attend))):
        again = jax.jit(lambda *a, other=other: value_and_grads(a, mask, other))(*arrays)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 2, 3, 6)])
def test_dense_value_and_gradients(shape):
    x, d_out = rand(*shape), rand(*shape[:-1], 5, seed=1)
    module = dense(5, jnp.float32)
    params = {"kernel": rand(6, 5, seed=2), "bias": rand(5, seed=3)}

    def loss(params, x):
        return (module.apply({"params": params}, x) * d_out).sum()

    out = x.astype(np.float64) @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), out, atol=1e-5)
    d_params, d_x = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    rows, d_rows = x.reshape(-1, 6).astype(np.float64), d_out.reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(d_params["kernel"], rows.T @ d_rows, atol=1e-5)
    np.testing.assert_allclose(d_params["bias"], d_rows.sum(0), atol=1e-5)
    np.testing.assert_allclose(d_x, d_out.astype(np.float64) @ params["kernel"].T, atol=1e-5)


def test_dense_in_bfloat16_has_float32_gradients():
    x = jnp.asarray(rand(3, 7, 6), jnp.bfloat16)
    params, d_out = {"kernel": rand(6, 5, seed=2), "bias": rand(5, seed=3)}, rand(3, 7, 5, seed=1)
    module = dense(5, jnp.bfloat16)

    def loss(params, x):
        out = module.apply({"params": params}, x)
        return (out.astype(jnp.float32) * d_out).sum(), out

    (d_params, d_x), out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    assert (out.dtype, d_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves(d_params)} == {jnp.dtype(jnp.float32)}
    rows, d_rows = np.asarray(x, np.float64).reshape(-1, 6), d_out.reshape(-1, 5)
    for a, b in (
        (out, np.asarray(x, np.float64) @ params["kernel"] + params["bias"]),
        (d_x, d_out.astype(np.float64) @ params["kernel"].T),
        (d_params["kernel"], rows.T @ d_rows),
        (d_params["bias"], d_rows.sum(0)),
    ):
        assert np.linalg.norm(np.asarray(a, np.float64) - b) < 0.01 * np.linalg.norm(b)


@pytest.mark.parametrize("batch", [1, 3])
def test_group_statistics_of_long_skewed_offset_frames(batch):
    # Ten seconds of frames; their mean is large compared to their spread, and there are outliers.
    frames = 32_000
    x = np.random.default_rng(0).exponential(size=(batch, frames, 4)).astype(np.float32) ** 2 + 5
    lengths = np.array([frames, 20_001, 1])[:batch]
    mask = np.arange(frames)[None] < lengths[:, None]
    module = MaskedGroupNorm(1e-5)
    params = {"scale": rand(4, seed=1), "bias": rand(4, seed=2)}
    actual = np.asarray(jax.jit(module.apply)({"params": params}, x, mask))
    for row, length in enumerate(lengths):
        valid = x[row, :length].astype(np.float64)
        expected = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5)
        expected = expected * params["scale"] + params["bias"]
        # A float32 mean of 32,000 values far from zero is accurate to 1e-5.
        np.testing.assert_allclose(actual[row, :length], expected, atol=3e-5, rtol=1e-5)
