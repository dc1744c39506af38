"""Every formulation of a convolution has the values and gradients of XLA's own convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.models.convolution import grouped_conv, grouped_matmul, strided_conv, strided_matmul


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def xla_conv(x, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,),
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
        precision="highest",
    )


def assert_same(ours, reference, x, kernel):
    weight = rand(*jax.eval_shape(reference, x, kernel).shape, seed=2)

    def value_and_grads(conv):
        def loss(x, kernel):
            out = conv(x, kernel)
            return (out * weight).sum(), out

        grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)
        return out, grads

    (out, ours), (expected, theirs) = map(value_and_grads, (ours, reference))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("conv", [grouped_conv, grouped_matmul])
@pytest.mark.parametrize(("taps", "groups"), [(5, 1), (5, 2), (6, 4), (32, 2), (17, 8)])
def test_grouped_convolution(conv, taps, groups):
    x, kernel = rand(3, 7 + taps, 8), rand(taps, 8 // groups, 8, seed=1)
    assert_same(
        functools.partial(conv, groups=groups)
        if conv is grouped_matmul
        else lambda x, kernel: conv(x, kernel, groups),
        functools.partial(xla_conv, groups=groups),
        x,
        kernel,
    )


@pytest.mark.parametrize("conv", [strided_conv, strided_matmul])
# HuBERT's three shapes, with and without samples left over; a stride longer than its kernel.
@pytest.mark.parametrize(
    ("taps", "stride", "length"),
    [
        (10, 5, 60),
        (10, 5, 63),
        (3, 2, 21),
        (3, 2, 22),
        (2, 2, 12),
        (2, 2, 13),
        (7, 3, 7),
        (2, 3, 14),
    ],
)
def test_strided_convolution(conv, taps, stride, length):
    x, kernel = rand(2, length, 3), rand(taps, 3, 4, seed=1)
    assert_same(
        lambda x, kernel: conv(x, kernel, stride),
        functools.partial(xla_conv, stride=stride),
        x,
        kernel,
    )


@pytest.mark.parametrize(
    ("conv", "argument", "platform", "convolutions"),
    [
        (strided_conv, 2, "cpu", True),
        (strided_conv, 2, "tpu", True),
        (strided_conv, 2, "cuda", False),
        (grouped_conv, 2, "cpu", True),
        (grouped_conv, 2, "tpu", False),
        (grouped_conv, 2, "cuda", False),
    ],
)
def test_formulation_is_chosen_by_the_platform_that_it_is_lowered_for(
    conv, argument, platform, convolutions
):
    x = jnp.zeros((2, 30, 8))
    kernel = jnp.zeros((4, 8 // argument if conv is grouped_conv else 8, 8))

    def forward_and_backward(x, kernel):
        return jax.value_and_grad(lambda a, k: conv(a, k, argument).sum(), (0, 1))(x, kernel)

    lowered = jax.jit(forward_and_backward).trace(x, kernel).lower(lowering_platforms=(platform,))
    assert ("stablehlo.convolution" in lowered.as_text()) == convolutions


def test_bfloat16_keeps_its_dtype_in_both_formulations():
    x, kernel = jnp.asarray(rand(2, 20, 4), jnp.bfloat16), jnp.asarray(rand(4, 4, 4), jnp.bfloat16)
    for conv in (strided_conv, strided_matmul):
        assert jax.jit(conv, static_argnums=2)(x, kernel, 2).dtype == jnp.bfloat16
    assert jax.jit(grouped_matmul, static_argnums=2)(x, kernel, 1).dtype == jnp.bfloat16
