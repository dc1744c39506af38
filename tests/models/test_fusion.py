"""The fusion encoder: which stream attends to which, masks, and attention maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_params

from sir_jax.config.presets import base_config
from sir_jax.config.specs import FusionSpec
from sir_jax.models import Encoded, attention_maps, build_model
from sir_jax.models.fusion import Fusion, sinusoids
from sir_jax.runtime.trees import leaf_paths

TASKS = ("match", "denoise_speech", "denoise_image")
SMALL = dict(layers=2, width=24, heads=2, mlp_width=48)


def tiny(tasks=TASKS, qformer=False, remat="none", **fusion):
    """Return (model, params), every parameter with noise."""
    c = base_config("tiny", "tiny").model
    c.speech.update(
        width=32,
        layers=1,
        heads=2,
        mlp_width=64,
        conv_width=(16, 32),
        conv_kernel=(40, 8),
        conv_stride=(20, 8),
        pos_kernel=8,
        pos_groups=2,
    )
    c.image.update(image_size=16, patch=8, width=40, layers=1, heads=2, mlp_width=64)
    c.head.update(heads=2, mlp_width=64)
    c.fusion.update(**{**SMALL, **fusion})
    c.update(embed_width=16, remat=remat)
    if qformer:
        c.image_head = "qformer"
        c.qformer.update(queries=4, width=28, layers=1, heads=2, mlp_width=48, projection=16)
    model = build_model(c, tasks)
    return model, jax.tree.map(jnp.asarray, random_params(model, 1))


def encoded(model, seed=0, b=3, t=9, p=5):
    """Return random tokens of speech and images; three captions have three lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.array([t, 4, 6])[:b]
    speech = Encoded(
        rng.normal(size=(b, t, model.speech_spec.width)).astype(np.float32),
        np.arange(t)[None, :] < lengths[:, None],
        None,
    )
    tokens = rng.normal(size=(b, p, model.image_width)).astype(np.float32)
    return speech, Encoded(tokens, np.ones((b, p), bool), None)


@functools.cache
def jitted(model, method, **kwargs):
    """Return one function a call, so that equal calls of several tests are traced once."""
    return jax.jit(lambda p, a: model.apply({"params": p}, *a, method=method, **kwargs))


def apply(model, params, method, *args, **kwargs):
    """Return NumPy arrays: each of a test's own operations would be a program to compile."""
    return jax.device_get(jitted(model, method, **kwargs)(params, args))


@pytest.fixture(scope="module", params=["speech", "image"])
def made(request):
    return tiny(query=request.param)


def garbage(e: Encoded) -> Encoded:
    """Return the tokens with other values in the padding."""
    return e._replace(tokens=np.where(e.mask[..., None], e.tokens, 77.0).astype(np.float32))


def test_padding_of_either_stream_is_never_seen(made):
    model, params = made
    speech, image = encoded(model)
    assert not speech.mask.all()
    np.testing.assert_array_equal(
        apply(model, params, "match", speech, image),
        apply(model, params, "match", garbage(speech), image),
    )
    for noisy, context, modality in ((speech, image, "speech"), (image, speech, "image")):
        a, b = (
            apply(model, params, "denoise", n, c, modality=modality)
            for n, c in ((noisy, context), (garbage(noisy), garbage(context)))
        )
        np.testing.assert_array_equal(a[noisy.mask], b[noisy.mask])


def test_more_padding_and_another_batch_change_nothing(made):
    model, params = made
    speech, image = encoded(model)
    longer = Encoded(
        np.pad(speech.tokens, ((0, 0), (0, 7), (0, 0))), np.pad(speech.mask, ((0, 0), (0, 7))), None
    )
    whole = apply(model, params, "match", speech, image)
    np.testing.assert_allclose(apply(model, params, "match", longer, image), whole, atol=1e-5)
    for row in range(3):
        one = [
            Encoded(e.tokens[row : row + 1], e.mask[row : row + 1], None) for e in (speech, image)
        ]
        np.testing.assert_allclose(apply(model, params, "match", *one)[0], whole[row], atol=1e-5)


def test_match_reads_the_cls_token_of_the_whole_pass(made):
    # The last layer is computed for the CLS token alone; the others must not change its value.
    model, params = made
    speech, image = encoded(model)
    x = apply(model, params, "fuse", speech, image)
    assert x.shape == (3, 9 if model.fusion_spec.query == "speech" else 5, 24)
    head = params["match_head"]
    np.testing.assert_allclose(
        apply(model, params, "match", speech, image),
        x[:, 0] @ head["kernel"] + head["bias"],
        atol=1e-5,
    )


def test_match_logits_of_a_qformer_are_the_mean_over_its_queries():
    model, params = tiny(tasks=("match", "denoise_image"), qformer=True, query="image")
    assert not model.image_has_cls and model.image_width == 28
    speech, image = encoded(model, p=4)
    x = apply(model, params, "fuse", speech, image)
    logits = x @ params["match_head"]["kernel"] + params["match_head"]["bias"]
    np.testing.assert_allclose(
        apply(model, params, "match", speech, image), logits.mean(axis=1), atol=1e-5
    )
    assert params["denoise_image"]["kernel"].shape == (24, 28)


def test_both_streams_change_the_match(made):
    model, params = made
    speech, image = encoded(model)
    other_speech, other_image = encoded(model, seed=1)
    base = apply(model, params, "match", speech, image)
    for pair in ((other_speech._replace(mask=speech.mask), image), (speech, other_image)):
        assert np.abs(apply(model, params, "match", *pair) - base).min() > 1e-4


def test_rebuilt_tokens_have_the_encoders_widths(made):
    model, params = made
    speech, image = encoded(model)
    rebuilt = apply(model, params, "denoise", speech, image, modality="speech")
    assert rebuilt.shape == (3, 9, 32) and rebuilt.dtype == jnp.float32
    rebuilt = apply(model, params, "denoise", image, speech, modality="image")
    assert rebuilt.shape == (3, 5, 40)


def test_without_self_attention_no_token_depends_on_its_neighbours():
    changed = {}
    for own in (True, False):
        model, params = tiny(tasks=("denoise_image",), self_attention=own)
        assert ("attention" in params["fusion"]["layers_00"]) == own
        speech, image = encoded(model)
        tokens = image.tokens.copy()
        tokens[:, 2] += 1.0
        a, b = (
            apply(model, params, "denoise", e, speech, modality="image")
            for e in (image, image._replace(tokens=tokens))
        )
        changed[own] = np.abs(a - b).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(changed[True], [True] * 5)
    np.testing.assert_array_equal(changed[False], np.arange(5) == 2)


def test_attention_maps_are_the_weights_that_make_the_output(made):
    model, params = made
    speech, image = encoded(model)
    maps = np.asarray(jax.jit(attention_maps, static_argnums=0)(model, params, speech, image))
    t, s = (9, 5) if model.fusion_spec.query == "speech" else (5, 9)
    assert maps.shape == (2, 3, 2, t, s) and maps.dtype == jnp.float32
    np.testing.assert_allclose(maps.sum(axis=-1), 1.0, atol=1e-6)
    context = image if model.fusion_spec.query == "speech" else speech
    hidden = np.broadcast_to(~context.mask[None, :, None, None, :], maps.shape)
    assert not np.any(np.asarray(maps)[hidden])
    # The first layer by the formula; its queries come after its self-attention.
    seen = {}

    def keep(next_fun, args, kwargs, module_context):
        module = module_context.module
        if module.name == "cross_attention" and module_context.method_name == "__call__":
            seen.setdefault(module.parent.name, args)
        return next_fun(*args, **kwargs)

    from flax import linen as nn

    @jax.jit
    def of_first_layer(params):
        with nn.intercept_methods(keep):
            model.apply({"params": params}, speech, image, method="fuse")
        return seen["layers_00"]

    x, context, mask = (np.asarray(a, np.float64) for a in of_first_layer(params))
    p = {
        k: np.asarray(v, np.float64)
        for k, v in leaf_paths(params["fusion"]["layers_00"]["cross_attention"]).items()
    }
    q = (x @ p["query/kernel"] + p["query/bias"]).reshape(3, t, 2, 12)
    k = (context @ p["key/kernel"] + p["key/bias"]).reshape(3, s, 2, 12)
    logits = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(12)
    weights = np.exp(logits) * mask[:, None, None, :]
    np.testing.assert_allclose(maps[0], weights / weights.sum(-1, keepdims=True), atol=1e-5)


def test_attention_weights_are_computed_on_request_only(made):
    model, params = made
    speech, image = encoded(model)

    def fuse(p, **kwargs):
        return model.apply({"params": p}, speech, image, method="fuse", **kwargs)

    asked = functools.partial(fuse, mutable=["intermediates"])
    flops = [jax.jit(f).lower(params).cost_analysis()["flops"] for f in (fuse, asked)]
    assert flops[1] > flops[0] * 1.001
    inputs = jnp.zeros((1, 400)), jnp.array([400]), jnp.zeros((1, 16, 16, 3))
    assert "intermediates" not in jax.eval_shape(model.init, jax.random.key(0), *inputs)


def test_position_code_has_the_expected_values():
    code = sinusoids(3, 4)
    expected = [[np.sin(t), np.sin(t / 100), np.cos(t), np.cos(t / 100)] for t in range(3)]
    np.testing.assert_allclose(code, expected, atol=1e-6)


def test_equal_tokens_differ_by_their_positions():
    model, params = tiny(tasks=("denoise_image",), self_attention=False)
    speech, image = encoded(model)
    same = image._replace(tokens=np.repeat(image.tokens[:, :1], 5, axis=1))
    rebuilt = apply(model, params, "denoise", same, speech, modality="image")
    assert np.abs(rebuilt - rebuilt[:, :1])[:, 1:].max(axis=-1).min() > 1e-3


def test_recomputing_changes_neither_value_nor_gradient():
    speech, image = encoded(tiny(layers=1)[0])
    results = []
    for remat in ("none", "full", "dots"):
        model, params = tiny(remat=remat, layers=1)
        loss = lambda p, m=model: m.apply({"params": p}, speech, image, method="match").sum()  # noqa: E731
        results.append(jax.jit(jax.value_and_grad(loss))(params))
    for other in results[1:]:
        assert leaf_paths(results[0]).keys() == leaf_paths(other).keys()
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("tasks", [(), ("match",), ("denoise_image",), ("denoise_speech",)])
def test_every_task_brings_just_its_own_parameters(tasks):
    _, params = tiny(tasks=tasks)
    names = {name.split("/")[0] for name in leaf_paths(params)}
    heads = {"match": "match_head"}
    assert names - {
        "speech",
        "image",
        "speech_head",
        "speech_projection",
        "image_projection",
        "temperature",
    } == {heads.get(t, t) for t in tasks} | ({"fusion"} if tasks else set())


def test_impossible_specs_are_refused():
    with pytest.raises(ValueError, match="tasks \\['rank'\\] are none of match"):
        tiny(tasks=("rank",))
    for fields, message in (
        (dict(query="text"), "query 'text' is neither"),
        (dict(layers=0), "layers 0"),
        (dict(width=25), "width 25 is odd"),
    ):
        with pytest.raises(ValueError, match=message):
            FusionSpec(**fields)
    with pytest.raises(ValueError, match="not a multiple of heads"):
        spec = FusionSpec(**{**SMALL, "heads": 5})
        Fusion(spec).init(
            jax.random.key(0),
            jnp.zeros((1, 2, 4)),
            jnp.ones((1, 2), bool),
            jnp.zeros((1, 2, 4)),
            jnp.ones((1, 2), bool),
            "image",
        )


def test_kernels_start_with_the_standard_deviation_of_the_config():
    spec = FusionSpec(**{**SMALL, "width": 64, "mlp_width": 256}, init_std=0.125)
    params = jax.jit(Fusion(spec).init, static_argnums=5)(
        jax.random.key(0),
        jnp.zeros((1, 2, 32)),
        jnp.ones((1, 2), bool),
        jnp.zeros((1, 2, 48)),
        jnp.ones((1, 2), bool),
        "image",
    )["params"]
    kernels = {path: leaf for path, leaf in leaf_paths(params).items() if path.endswith("kernel")}
    assert len(kernels) == 2 + 2 * (4 + 4 + 2)
    for path, kernel in kernels.items():
        assert np.std(kernel) == pytest.approx(0.125, rel=0.1), path
