"""The joint model: padding changes no embedding, clips may have any length; shapes and norms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_params

from sir_jax.config.presets import base_config
from sir_jax.models import HeadSpec, HubertSpec, build_model
from sir_jax.models.hubert import Hubert, conv_lengths
from sir_jax.models.qformer import QFormer
from sir_jax.models.speech_head import TransformerHead
from sir_jax.models.vit import Vit

# The convolutions of HuBERT base (400 samples per frame, a step of 320) at a small width.
STYLES = {
    "group": dict(conv_norm="group", conv_bias=False, norm_first=False),
    "layer": dict(conv_norm="layer", conv_bias=True, norm_first=True),
}
BUCKETS = (4_000, 12_000)


def small_config(style: str):
    c = base_config("base", "B/32")
    c.model.speech.update(
        width=32,
        layers=2,
        heads=2,
        mlp_width=64,
        conv_width=(16,) * 7,
        pos_kernel=16,
        pos_groups=4,
        **STYLES[style],
    )
    c.model.image.update(image_size=16, patch=8, width=32, layers=2, heads=2, mlp_width=64)
    c.model.head.update(heads=2, mlp_width=64, weigh_layers=True)
    c.model.embed_width = 16
    return c


@pytest.fixture(params=sorted(STYLES), scope="module")
def encode(request):
    model = build_model(small_config(request.param).model)
    # The initial values of norms and biases would hide a wrong statistic.
    params = random_params(model, 1)
    run = jax.jit(
        lambda wave, lengths: model.apply({"params": params}, wave, lengths, method="encode_speech")
    )

    def encode(clips, bucket, padding=0.0):
        wave = np.full((len(clips), bucket), padding, np.float32)
        for row, clip in zip(wave, clips, strict=True):
            row[: len(clip)] = clip
        return run(wave, np.array([len(c) for c in clips], np.int32))

    return encode


def apply(module, params, *args, **kwargs):
    """Run a module as one program: each operation alone would be a program of its own."""
    return jax.jit(functools.partial(module.apply, **kwargs))({"params": params}, *args)


def clip(samples, seed=0):
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def test_a_clip_has_one_embedding_alone_in_a_batch_and_in_every_bucket(encode):
    speech = clip(3_777)
    alone = encode([speech], len(speech)).embed[0]
    short, long = BUCKETS
    company = [clip(long, seed=1), speech, clip(long // 2, seed=2)]
    for embed in (encode([speech], short).embed[0], encode(company, long).embed[1]):
        np.testing.assert_allclose(embed, alone, atol=1e-4)
        assert float(embed @ alone) > 0.99999


def test_tokens_of_valid_frames_do_not_depend_on_padding(encode):
    speech = clip(3_777)
    alone, padded = encode([speech], len(speech)), encode([speech], BUCKETS[0])
    frames = alone.tokens.shape[1]
    assert int(padded.mask.sum()) == frames == int(alone.mask.sum())
    np.testing.assert_allclose(padded.tokens[0, :frames], alone.tokens[0], atol=1e-4)


def test_the_values_in_the_padding_change_nothing(encode):
    speech = clip(3_777)
    np.testing.assert_array_equal(
        encode([speech], 4_000).embed, encode([speech], 4_000, padding=9.0).embed
    )


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401])
def test_short_clips_are_padded_with_zeros_to_one_frame(encode, samples):
    speech = clip(samples)
    padded = np.pad(speech, (0, max(0, 400 - samples)))
    expected = encode([padded], 401).embed[0]
    actual = encode([speech], 4_000)
    assert np.isfinite(actual.embed).all()
    assert int(actual.mask.sum()) == 2  # CLS and one frame
    np.testing.assert_allclose(actual.embed[0], expected, atol=1e-4)


def test_embeddings_are_float32_and_unit_norm_in_bfloat16_compute():
    c = small_config("layer")
    model32 = build_model(c.model)
    c.model.dtype = "bfloat16"
    model16 = build_model(c.model)
    params = random_params(model16)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    pixels = clip(2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    wave, lengths = clip(8_000).reshape(2, 4_000), jnp.array([4_000, 3_000])
    actual, expected = (
        jax.jit(model.apply)({"params": params}, wave, lengths, pixels)
        for model in (model16, model32)
    )
    for a, b in zip(actual[:2], expected[:2], strict=True):
        assert a.embed.dtype == jnp.float32 and a.tokens.dtype == jnp.bfloat16
        np.testing.assert_allclose(jnp.linalg.norm(a.embed, axis=-1), 1.0, atol=1e-5)
        assert float((a.embed * b.embed).sum(-1).min()) > 0.99


def test_frame_counts_are_those_of_transformers():
    import transformers

    reference = transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=24,
            num_hidden_layers=0,
            num_attention_heads=2,
            num_conv_pos_embedding_groups=2,
        )
    )
    lengths = np.array([400, 719, 720, 16_000, 160_000])
    theirs = [int(reference._get_feat_extract_output_lengths(int(n))) for n in lengths]
    assert conv_lengths(HubertSpec(), lengths).tolist() == theirs


def test_gain_of_the_positional_convolution_starts_at_the_kernel_norm():
    spec = HubertSpec(**small_config("layer").model.speech)
    init = jax.jit(Hubert(spec).init)
    params = init(jax.random.key(0), jnp.zeros((1, 400)), jnp.array([400]))["params"]
    conv = params["positional_conv"]
    np.testing.assert_allclose(
        conv["g"], np.sqrt(np.square(conv["v"]).sum(axis=(1, 2), keepdims=True)), rtol=1e-6
    )


def test_qformer_embeds_an_image_by_the_mean_of_its_projected_queries():
    c = small_config("layer")
    c.model.image_head = "qformer"
    c.model.qformer.update(
        queries=4, width=24, layers=2, heads=2, mlp_width=48, projection=c.model.embed_width
    )
    model = build_model(c.model)
    params = random_params(model)
    assert "image_projection" not in params
    pixels = clip(2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    actual = apply(model, params, pixels, method="encode_image")
    tokens = apply(Vit(model.image_spec), params["image"], pixels).tokens
    head = apply(QFormer(model.qformer_spec), params["image_head"], tokens)
    np.testing.assert_allclose(actual.tokens, head.tokens, atol=1e-6)
    assert actual.mask.shape == (2, 4) and actual.mask.all()
    mean = np.asarray(head.projected, np.float64).mean(axis=1)
    np.testing.assert_allclose(
        actual.embed, mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-6
    )


def test_mlp_puts_a_layer_between_the_cls_token_and_its_projection():
    c = small_config("layer")
    c.model.image_head = "mlp"
    model = build_model(c.model)
    params = random_params(model)
    pixels = clip(2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    actual = apply(model, params, pixels, method="encode_image")
    features = apply(Vit(model.image_spec), params["image"], pixels)
    np.testing.assert_array_equal(actual.tokens, features.tokens)
    head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["image_head"])
    x = np.asarray(features.pooled, np.float64)
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5)
    x = (x * head["norm"]["scale"] + head["norm"]["bias"]) @ head["up"]["kernel"]
    x = x + head["up"]["bias"]
    assert x.shape == (2, 1_024)
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = x @ np.asarray(params["image_projection"]["kernel"], np.float64)
    np.testing.assert_allclose(
        actual.embed, x / np.linalg.norm(x, axis=-1, keepdims=True), atol=1e-6
    )


def test_qformer_of_another_width_than_the_embedding_is_refused():
    c = small_config("layer")
    c.model.image_head = "qformer"
    with pytest.raises(ValueError, match="projection 256 is not embed_width 16"):
        build_model(c.model)


def test_layer_weighting_is_a_softmax_over_all_hidden_states():
    c = small_config("layer")
    model = build_model(c.model)
    params = random_params(model)
    # With all weight on state 1 the head sees that state alone.
    params["speech_head"]["layer_weights"] = jnp.array([-40.0, 40.0, -40.0])
    wave, lengths = clip(4_000)[None], jnp.array([4_000])
    actual = apply(model, params, wave, lengths, method="encode_speech")
    states = apply(Hubert(model.speech_spec), params["speech"], wave, lengths)
    single = apply(
        TransformerHead(HeadSpec(layers=1, heads=2, mlp_width=64), 32, 3),
        {k: v for k, v in params["speech_head"].items() if k != "layer_weights"},
        states._replace(tokens=states.states[1]),
        deterministic=True,
    )
    np.testing.assert_allclose(actual.tokens, single[0], atol=1e-5)


def test_image_of_another_size_is_refused():
    c = small_config("layer")
    model = build_model(c.model)
    params = random_params(model)
    with pytest.raises(ValueError, match=r"not \[B, 16, 16, 3\]"):
        model.apply({"params": params}, jnp.zeros((1, 24, 24, 3)), method="encode_image")
