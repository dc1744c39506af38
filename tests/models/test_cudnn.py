"""Attention by cuDNN, as far as a machine without a GPU can test: the calls in the programs."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from sir_jax.config.presets import base_config
from sir_jax.models import attention, build_model, init_params
from sir_jax.models.attention import attend


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def gpu(monkeypatch):
    """Let programs be lowered as on a GPU machine; they cannot run."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)


@pytest.mark.parametrize("t, s", [(7, 9), (7, 8), (8, 9), (8, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_arguments_for_the_library_give_the_same_attention(t, s, masked):
    """Both implementations of the library, XLA's and cuDNN's, take the same arguments."""
    q, k, v, d_out = (rand(4, n, 3, 8, seed=i) for i, n in enumerate((t, s, s, t)))
    mask = np.arange(s)[None] < np.array([s, 1, 4, s - 1])[:, None] if masked else None

    def value_and_grads(attend):
        loss = jax.value_and_grad(lambda *qkv: (attend(*qkv, mask) * d_out).sum(), (0, 1, 2))
        return jax.jit(loss)(q, k, v)

    ours = value_and_grads(attend)
    theirs = value_and_grads(lambda *args: attention._library(*args, "xla"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_without_a_gpu_cudnn_falls_back_to_xla():
    q, k, v = (rand(2, 5, 2, 8, seed=i) for i in range(3))
    np.testing.assert_array_equal(attend(q, k, v, None, "cudnn"), attend(q, k, v, None))
    with pytest.raises(ValueError, match="'fast' is none of auto, xla, cudnn, flash"):
        attend(q, k, v, None, "fast")


def lowered_gradient(implementation, **fields):
    """Return the text of a gradient through all attention layers, lowered for CUDA."""
    c = base_config("base", "B/32").model
    c.speech.update(
        width=32, layers=2, heads=2, mlp_width=64, conv_width=(16,) * 7, pos_kernel=16, pos_groups=4
    )
    c.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.qformer.update(queries=3, width=32, layers=1, heads=2, mlp_width=64, projection=16)
    c.head.update(layers=1, heads=2, mlp_width=64)
    c.fusion.update(layers=2, width=32, heads=2, mlp_width=64)
    c.update(image_head="qformer", embed_width=16, dtype="bfloat16", attention=implementation)
    c.update(fields)
    model = build_model(c, ("match",))
    inputs = jnp.zeros((2, 8_000)), jnp.full(2, 8_000), jnp.zeros((2, 16, 16, 3))

    def loss(params):
        speech, image, _ = model.apply({"params": params}, *inputs)
        match = model.apply({"params": params}, speech, image, method="match")
        return (speech.embed * image.embed).sum() + match.sum()

    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    traced = jax.jit(jax.grad(loss)).trace(params)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


# 10 attention layers: speech 2, speech head 1, image 1, Q-Former 1 + 1 cross, fusion 2 x 2.
@pytest.mark.parametrize("remat, forward", [("none", 10), ("full", 20)])
def test_every_layer_calls_cudnn(gpu, remat, forward):
    text = lowered_gradient("cudnn", remat=remat)
    assert Counter(re.findall(r"@(__cudnn\$\w+)", text)) == {
        "__cudnn$fmhaSoftmax": forward,
        "__cudnn$fmhaSoftmaxBackward": 10,
    }
    assert not softmaxes(text)


def test_no_layer_calls_cudnn_by_default(gpu):
    text = lowered_gradient("xla")
    assert "__cudnn" not in text and len(softmaxes(text)) == 20


def test_layers_as_a_loop_call_cudnn(gpu):
    text = lowered_gradient("cudnn", scan=True)
    assert "__cudnn$fmhaSoftmaxBackward" in text and not softmaxes(text)


def softmaxes(text):
    """Return the lines of a program that take the exponential of logits [B, H, T, S]."""
    return re.findall(r"stablehlo\.exponential .*tensor<\d+x\d+x\d+x\d+xf32>", text)
