"""Shared layers against float64 references and against each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import filled

from sir_jax.models import Hubert, HubertSpec
from sir_jax.models.attention import attend
from sir_jax.models.layers import ACTIVATIONS, Attention, Block, rematerialised
from sir_jax.training.instruments.flops import count_flops


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# A frontend of two convolutions, because the tests are of what comes after it.
SMALL = dict(
    width=32,
    heads=2,
    mlp_width=48,
    conv_width=(8, 32),
    conv_kernel=(40, 8),
    conv_stride=(20, 8),
    pos_kernel=8,
    pos_groups=2,
)


def test_gelu_is_the_exact_form():
    x = np.linspace(-6, 6, 101)
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(ACTIVATIONS["gelu"](jnp.float32(x)), expected, atol=1e-6)


def test_quick_gelu_has_the_expected_value():
    assert float(ACTIVATIONS["quick_gelu"](jnp.float32(1.0))) == pytest.approx(
        1 / (1 + math.exp(-1.702)), abs=1e-6
    )


def test_attend_equals_float64_reference_with_mask():
    q, k, v = rand(2, 5, 3, 4), rand(2, 7, 3, 4, seed=1), rand(2, 7, 3, 4, seed=2)
    mask = np.arange(7)[None] < np.array([[7], [4]])
    logits = np.einsum("bthk,bshk->bhts", q.astype(np.float64), k.astype(np.float64)) / 2.0
    logits = np.where(mask[:, None, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhts,bshk->bthk", weights, v.astype(np.float64))
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=2e-6)


def test_attend_ignores_masked_values():
    q, k, v = rand(1, 2, 1, 4), rand(1, 3, 1, 4, seed=1), rand(1, 3, 1, 4, seed=2)
    mask = np.array([[True, True, False]])
    changed = v.copy()
    changed[:, 2] = 1e6
    np.testing.assert_array_equal(attend(q, k, v, mask), attend(q, k, changed, mask))


def test_attention_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 3"):
        x = jnp.zeros((1, 2, 10))
        Attention(10, 3).init(jax.random.key(0), x, x, None)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kept", ["full", "dots"])
def test_rematerialised_block_has_the_same_value_and_gradient(norm_first, kept):
    fields = dict(
        width=8, heads=2, mlp_width=16, activation="gelu", epsilon=1e-5, norm_first=norm_first
    )
    x = rand(2, 5, 8)
    plain, remat = Block(**fields), rematerialised(Block, kept, (3,))(**fields)
    params = jax.jit(plain.init, static_argnums=(2, 3))(jax.random.key(0), x, None, True)

    def loss(module, p):
        return jnp.square(module.apply(p, x, None, True)).sum()

    a, grad_a = jax.jit(jax.value_and_grad(lambda p: loss(plain, p)))(params)
    b, grad_b = jax.jit(jax.value_and_grad(lambda p: loss(remat, p)))(params)
    assert float(a) == pytest.approx(float(b), rel=1e-6)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-5), grad_a, grad_b)


def test_kept_activations_are_not_recomputed():
    fields = dict(width=8, heads=2, mlp_width=16, activation="gelu", epsilon=1e-5, norm_first=True)
    x = rand(2, 5, 8)
    params = jax.eval_shape(lambda: Block(**fields).init(jax.random.key(0), x, None, True))

    def work(kept):
        module = rematerialised(Block, kept, (3,))(**fields)
        loss = lambda p, x: jnp.square(module.apply(p, x, None, True)).sum()  # noqa: E731
        return count_flops(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, x))

    once = 2 * 2 * 5 * (4 * 8 * 8 + 2 * 8 * 16)  # products with weights, forward
    attention = 2 * 2 * 5 * 5 * 8 * 2  # logits, and weights by values
    last = 2 * 2 * 5 * 16 * 8  # the last product: the backward pass does not need its result
    none, dots, full = work("none"), work("dots"), work("full")
    assert none <= dots <= none + attention
    assert full == none + once + attention - last
    with pytest.raises(ValueError, match="remat 'some' is none of none, full, dots"):
        rematerialised(Block, "some", (3,))


# With "full" the loop is rematerialised, too, which holds what "none" does.
@pytest.mark.parametrize("kept", [pytest.param("none", marks=pytest.mark.release), "full"])
def test_layers_in_a_loop_equal_layers_one_by_one(kept):
    fields = SMALL | dict(layers=3)
    wave, lengths = rand(2, 4_000), jnp.array([4_000, 3_000])
    plain, looped = (Hubert(HubertSpec(**fields), kept, scan=scan) for scan in (False, True))
    params = filled(jax.eval_shape(plain.init, jax.random.key(0), wave, lengths))
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(looped.init, jax.random.key(0), wave, lengths)
    )

    def run(model, params):
        out = model.apply(params, wave, lengths)
        return sum(jnp.square(state).mean() for state in out.states), out

    (_, a), grad_a = jax.jit(jax.value_and_grad(lambda p: run(plain, p), has_aux=True))(params)
    (_, b), grad_b = jax.jit(jax.value_and_grad(lambda p: run(looped, p), has_aux=True))(params)
    assert len(a.states) == len(b.states) == 4
    for one, other in zip(jax.tree.leaves((a, grad_a)), jax.tree.leaves((b, grad_b)), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5)


def test_a_loop_draws_its_dropout_from_the_key():
    model = Hubert(HubertSpec(**SMALL, layers=2, dropout=0.5), scan=True)
    wave, lengths = rand(1, 4_000), jnp.array([4_000])
    params = filled(jax.eval_shape(model.init, jax.random.key(0), wave, lengths))

    @jax.jit
    def run(key):
        return model.apply(params, wave, lengths, deterministic=False, rngs={"dropout": key}).tokens

    outs = [run(jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert np.abs(outs[0] - outs[2]).max() > 1e-3
