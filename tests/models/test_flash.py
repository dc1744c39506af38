"""The TPU's attention kernel, run on CPU, against the plain form: values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sir_jax.config.presets import base_config
from sir_jax.models import attention, build_model
from sir_jax.models.attention import Flash, attend, flash_block
from sir_jax.runtime.sharding import make_mesh

ALONE = Flash(always=True, interpret=True)


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value_and_grads(arrays, mask, implementation):
    def loss(q, k, v, d_out):
        out = attend(q, k, v, mask, implementation)
        return (out.astype(jnp.float32) * d_out).sum(), out

    grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return out, *grads


def assert_equal(t, s, heads, width, dtype=jnp.float32, masked=True, where=ALONE):
    """Compare with the plain form; rows have all keys, one, all but one, and none."""
    arrays = [rand(4, n, heads, width, seed=i) for i, n in enumerate((t, s, s, t))]
    valid = np.array([s, 1, max(s - 1, 1), 0])
    mask = np.arange(s)[None] < valid[:, None] if masked else None
    half = [x.astype(dtype) for x in arrays[:3]]
    assert where.takes(*half[:2])
    ours = value_and_grads((*half, arrays[3]), mask, where)
    exact = value_and_grads([np.asarray(x, np.float32) for x in (*half, arrays[3])], mask, "xla")
    for number, (a, b) in enumerate(zip(ours, exact, strict=True)):
        assert a.dtype == dtype
        # By the largest of an array: a gradient for a key is a sum over all queries. In bfloat16
        # the plain form's gradients are off by as much, 4e-3.
        most = 1e-5 if dtype == jnp.float32 else 4e-3 if number else 2e-3
        assert np.abs(np.asarray(a, np.float32) - b).max() <= most * max(1, np.abs(b).max())


@pytest.mark.parametrize(
    ("t", "s", "heads", "width"),
    [
        (1, 1, 2, 64),
        (7, 50, 4, 64),  # two heads a block
        (37, 20, 2, 88),  # all heads a block: 88 is no divisor of 128 lanes
        pytest.param(750, 257, 2, 64, marks=pytest.mark.release),
        pytest.param(257, 751, 2, 88, marks=pytest.mark.release),
        pytest.param(1_500, 1_500, 2, 64, marks=pytest.mark.release),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients(t, s, heads, width, masked):
    assert_equal(t, s, heads, width, masked=masked)


def test_bfloat16():
    assert_equal(40, 30, 2, 64, jnp.bfloat16)


def test_bfloat16_gradients_are_within_a_last_place_of_the_exact_ones():
    arrays = [rand(4, 40, 2, 64, seed=i).astype(jnp.bfloat16) for i in range(4)]
    d_out = np.asarray(arrays.pop(), np.float32)
    ours = value_and_grads((*arrays, d_out), None, ALONE)
    exact = value_and_grads([np.asarray(x, np.float32) for x in (*arrays, d_out)], None, "xla")
    for a, b in zip(ours[1:], exact[1:], strict=True):
        most = float(np.abs(b).max())
        place = 2.0 ** (np.floor(np.log2(most)) - 7)
        assert np.abs(np.asarray(a, np.float32) - b).max() <= place
        # Nobody can hold 2e-3 of the largest in bfloat16: the exact gradient, rounded once,
        # is farther off.
        rounded = np.abs(np.asarray(jnp.asarray(b).astype(jnp.bfloat16), np.float32) - b).max()
        assert rounded > 2e-3 * most


def test_a_block_over_the_end_of_the_queries_adds_nothing(monkeypatch):
    monkeypatch.setattr(attention, "_LOGIT_BYTES", 4 * 20 * 16)
    assert flash_block(37, 20, 2, 64) == (16, 2)  # 16 + 16 + 5
    assert_equal(37, 20, 2, 64)
    assert_equal(32, 20, 2, 64)


def test_blocks():
    # One block up to 512 x 512; then equal blocks of a multiple of 16 rows.
    assert flash_block(257, 257, 16, 64) == (257, 2)
    assert flash_block(750, 750, 16, 64) == (256, 2)
    assert flash_block(1_500, 1_500, 16, 64) == (176, 2)
    assert flash_block(257, 257, 16, 88) == (257, 16)
    assert flash_block(5, 5, 3, 64) == (5, 3)  # no pairs


def test_each_device_runs_the_kernel_on_its_rows_and_heads():
    mesh = make_mesh(dict(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    where = Flash(mesh, ("data", "fsdp"), ("tensor",), always=True, interpret=True)
    assert_equal(9, 11, 4, 64, where=where)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    args = [jax.ShapeDtypeStruct((4, 9, 4, 64), jnp.float32, sharding=rows)] * 3
    run = jax.jit(lambda q, k, v: attend(q, k, v, None, where), out_shardings=rows)
    text = run.lower(*args).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text


def test_what_the_kernel_does_not_take_goes_to_xla():
    mesh = make_mesh(dict(data=2, fsdp=1, tensor=1), jax.devices()[:2])
    where = Flash(mesh, ("data", "fsdp"), ("tensor",), always=True)

    def takes(where, b, t, s, width=64, dtype=jnp.bfloat16):
        q, k = (jax.ShapeDtypeStruct((b, n, 16, width), dtype) for n in (t, s))
        return where.takes(q, k)

    assert takes(where, 4, 9, 9)
    assert not takes(where, 3, 9, 9)  # rows do not divide
    assert not takes(where, 4, 9, 20_000)  # keys do not fit
    assert takes(where, 4, 257, 257, 88)
    assert not takes(where, 4, 257, 257, 88, jnp.float32)
    short = Flash(mesh, ("data", "fsdp"), ("tensor",))
    assert not takes(short, 4, 1, 751) and takes(where, 4, 1, 751)
    assert takes(short, 4, 750, 750)
    q, k, v = (rand(3, 5, 2, 8, seed=i) for i in range(3))
    np.testing.assert_array_equal(attend(q, k, v, None, where), attend(q, k, v, None))


@pytest.mark.parametrize("name", ["flash", "auto"])
def test_off_a_tpu_the_plain_form_runs(name):
    q, k, v = (rand(2, 5, 2, 8, seed=i) for i in range(3))
    np.testing.assert_array_equal(attend(q, k, v, None, name), attend(q, k, v, None))


def lowered(implementation):
    """Return the text of a TPU's program of a gradient."""
    x = jax.ShapeDtypeStruct((2, 64, 2, 64), jnp.bfloat16)
    loss = functools.partial(attend, mask=None, implementation=implementation)
    grad = jax.jit(jax.grad(lambda *qkv: loss(*qkv).astype(jnp.float32).sum(), (0, 1, 2)))
    return grad.trace(x, x, x).lower(lowering_platforms=("tpu",)).as_text()


def test_a_tpu_program_calls_the_kernel_and_holds_no_logits():
    text = lowered(Flash(always=True))
    # The backward pass alone: it keeps nothing of the forward pass but its arguments.
    assert len(re.findall("custom_call @tpu_custom_call", text)) == 1
    assert "64x64xf32" not in text and "64x64xf32" in lowered("xla")


def test_a_config_chooses():
    c = base_config("base", "B/32").model
    mesh = make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    where = Flash(mesh, ("data", "fsdp"), ("tensor",))
    for name, always in (("auto", False), ("flash", True)):
        c.attention = name
        assert build_model(c, flash=where).attention == Flash(mesh, *where_axes(where), always)
        assert build_model(c).attention == "xla"
    c.attention = "cudnn"
    assert build_model(c, flash=where).attention == "cudnn"


def where_axes(where):
    return where.rows, where.heads
