"""The cross-attention layer and the Q-Former: parity with PyTorch, and invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from sir_jax.config.specs import Blip2Spec, QFormerSpec, VitSpec
from sir_jax.models.layers import Block, CrossBlock
from sir_jax.models.qformer import Blip2, QFormer

FIELDS = dict(width=32, heads=4, mlp_width=48, activation="gelu", epsilon=1e-5)
SPEC = QFormerSpec(queries=5, width=32, layers=2, heads=4, mlp_width=48, projection=12)


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def perturbed(module, *args):
    """Return parameters of which none is 0 or 1, without compiling `init`."""
    shapes = flatten_dict(jax.eval_shape(lambda key: module.init(key, *args), jax.random.key(0)))
    params = {
        k: float(k[-1] == "scale") + 0.1 * rand(*v.shape, seed=i)
        for i, (k, v) in enumerate(shapes.items())
    }
    return unflatten_dict(params)


def run(module, params, *args):
    """Apply a module under jit: run eagerly, even one this small takes seconds."""
    return jax.jit(lambda p: module.apply(p, *args))(params)


def torch_layer(context_width):
    """Return PyTorch's decoder layer, which has the same order and masks for both streams."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerDecoderLayer(32, 4, 48, activation="gelu", batch_first=True)
    layer.multihead_attn = torch.nn.MultiheadAttention(
        32, 4, kdim=context_width, vdim=context_width, batch_first=True
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return layer.eval()


def from_torch(layer):
    def dense(weight, bias):
        return dict(kernel=weight.detach().numpy().T, bias=bias.detach().numpy())

    def norm(n):
        return dict(scale=n.weight.detach().numpy(), bias=n.bias.detach().numpy())

    def attention(a):
        if a.in_proj_weight is None:
            weights = a.q_proj_weight, a.k_proj_weight, a.v_proj_weight
        else:
            weights = a.in_proj_weight.chunk(3)
        parts = zip(("query", "key", "value"), weights, a.in_proj_bias.chunk(3), strict=True)
        tree = {name: dense(w, b) for name, w, b in parts}
        return tree | dict(out=dense(a.out_proj.weight, a.out_proj.bias))

    return dict(
        attention=attention(layer.self_attn),
        attention_norm=norm(layer.norm1),
        cross_attention=attention(layer.multihead_attn),
        cross_attention_norm=norm(layer.norm2),
        mlp=dict(
            up=dense(layer.linear1.weight, layer.linear1.bias),
            down=dense(layer.linear2.weight, layer.linear2.bias),
        ),
        mlp_norm=norm(layer.norm3),
    )


def test_cross_block_equals_pytorch_with_both_masks_and_a_context_of_another_width():
    layer = torch_layer(context_width=20)
    x, context = rand(2, 6, 32), rand(2, 7, 20, seed=1)
    mask = np.arange(6)[None] < np.array([[6], [4]])
    context_mask = np.arange(7)[None] < np.array([[3], [7]])
    with torch.no_grad():
        theirs = layer(
            torch.from_numpy(x),
            torch.from_numpy(context),
            tgt_key_padding_mask=torch.from_numpy(~mask),
            memory_key_padding_mask=torch.from_numpy(~context_mask),
        )
    ours = run(
        CrossBlock(**FIELDS, cross=True),
        {"params": from_torch(layer)},
        x,
        mask,
        context,
        context_mask,
        True,
    )
    np.testing.assert_allclose(ours[mask], theirs.numpy()[mask], atol=2e-5)


def test_masked_context_has_no_influence():
    block = CrossBlock(**FIELDS, cross=True)
    x, context = rand(2, 6, 32), rand(2, 7, 20, seed=1)
    mask = np.arange(7)[None] < np.array([[3], [7]])
    params = perturbed(block, x, None, context, mask, True)
    changed = np.where(mask[..., None], context, 100.0).astype(np.float32)
    np.testing.assert_array_equal(
        run(block, params, x, None, context, mask, True),
        run(block, params, x, None, changed, mask, True),
    )


def test_block_without_cross_attention_is_the_post_norm_block_and_reads_no_context():
    x, mask = rand(2, 6, 32), np.arange(6)[None] < np.array([[6], [4]])
    block = CrossBlock(**FIELDS, cross=False)
    params = perturbed(block, x, mask, None, None, True)
    assert not [k for k in params["params"] if "cross" in k]
    expected = run(Block(**FIELDS, norm_first=False), params, x, mask, True)
    actual = run(block, params, x, mask, rand(2, 3, 20), None, True)
    np.testing.assert_array_equal(actual, expected)


def test_cross_block_without_a_context_is_refused():
    with pytest.raises(ValueError, match="cross=True needs a context"):
        CrossBlock(**FIELDS, cross=True).init(
            jax.random.key(0), rand(1, 2, 32), None, None, None, True
        )


def test_rematerialised_qformer_has_the_same_value_and_gradient():
    context = rand(2, 9, 20)
    plain, remat = QFormer(SPEC), QFormer(SPEC, remat="full")
    params = perturbed(plain, context)

    def loss(module, p):
        return jnp.square(module.apply(p, context).projected).sum()

    a, grad_a = jax.jit(jax.value_and_grad(lambda p: loss(plain, p)))(params)
    b, grad_b = jax.jit(jax.value_and_grad(lambda p: loss(remat, p)))(params)
    assert float(a) == pytest.approx(float(b), rel=1e-6)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-4), grad_a, grad_b)


def test_qformer_reads_a_set_and_each_image_alone():
    context = rand(2, 9, 20)
    model = QFormer(SPEC)
    params = perturbed(model, context)
    together = run(model, params, context)
    shuffled = run(model, params, context[:, ::-1])
    alone = run(model, params, context[1:])
    np.testing.assert_allclose(together.projected, shuffled.projected, atol=1e-5)
    np.testing.assert_allclose(together.projected[1:], alone.projected, atol=1e-5)
    assert np.abs(together.projected[0] - together.projected[1]).max() > 0.01


@pytest.mark.parametrize("every, expected", [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_every_nth_layer_has_cross_attention_starting_with_the_first(every, expected):
    spec = QFormerSpec(queries=5, width=32, layers=4, heads=4, mlp_width=48, cross_every=every)
    tree = jax.eval_shape(QFormer(spec).init, jax.random.key(0), rand(1, 9, 20))["params"]
    with_cross = [i for i in range(4) if "cross_attention" in tree[f"layers_{i:02d}"]]
    assert with_cross == expected


def test_qformer_without_projection_has_no_projection():
    spec = QFormerSpec(queries=5, width=32, layers=1, heads=4, mlp_width=48, projection=0)
    init = QFormer(spec).init_with_output
    out, params = jax.eval_shape(init, jax.random.key(0), rand(1, 9, 20))
    assert out.projected is None
    assert "projection" not in params["params"]


def test_dropout_of_the_queries_differs_between_images():
    context = np.repeat(rand(1, 9, 20), 2, axis=0)
    model = QFormer(SPEC)
    params = perturbed(model, context)
    drop = {"dropout": jax.random.key(1)}
    out = jax.jit(lambda p: model.apply(p, context, False, rngs=drop))(params)
    assert (out.states[0][0] != out.states[0][1]).any()


def test_half_precision_stays_half_and_close():
    vision = VitSpec(
        image_size=32,
        patch=8,
        width=32,
        layers=2,
        heads=4,
        mlp_width=48,
        activation="gelu",
        form="blip2",
    )
    spec, pixels = Blip2Spec(vision, SPEC), rand(2, 32, 32, 3)
    params = perturbed(Blip2(spec), pixels)
    _, exact = run(Blip2(spec), params, pixels)
    image, half = run(Blip2(spec, dtype=jnp.bfloat16), params, pixels)
    assert image.tokens.dtype == half.projected.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.tokens.astype(np.float32), exact.tokens, atol=0.15)


def test_impossible_specs_are_refused():
    with pytest.raises(ValueError, match="form 'eva' is none of clip, blip2"):
        VitSpec(form="eva")
    with pytest.raises(ValueError, match="cross_every 0 is not at least 1"):
        QFormerSpec(cross_every=0)
