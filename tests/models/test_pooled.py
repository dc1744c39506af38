"""Pooled vectors: their values in float64, and that padding changes nothing."""

import functools

import jax
import numpy as np
import pytest
from tiny_models import random_params, tiny_config

from sir_jax.models import Encoded, MatchSpec, build_model


@pytest.fixture(scope="module", params=[0, 3], ids=["anywhere", "places"])
def model_and_params(request):
    cfg = tiny_config(**{"model.match.kind": "pooled", "model.match.places": bool(request.param)})
    cfg.model.match.update(queries=3, hidden=10, width=6, taps=request.param)
    model = build_model(cfg.model, ("pool",))
    return model, random_params(model)


def reference(tree, tokens, mask, places=False, taps=0):
    """Compute one item's pooled vector token by token, in float64."""
    tree = jax.tree.map(np.float64, tree)
    tokens = tokens[mask].astype(np.float64)
    mean, var = tokens.mean(axis=1, keepdims=True), tokens.var(axis=1, keepdims=True)
    x = (tokens - mean) / np.sqrt(var + 1e-5) * tree["norm"]["scale"] + tree["norm"]["bias"]
    if taps:
        x = np.concatenate([x[:1], convolved(tree["convolution"], x[1:], taps)])
    read = []
    for place, query in enumerate(tree["queries"]):
        logits = x @ query
        if places:
            count = len(x) - 1
            for frame in range(count):
                at = (frame + 0.5) / count * len(tree["queries"])
                logits[1 + frame] -= (at - (place + 0.5)) ** 2
        share = np.exp(logits - logits.max())
        read.append((share / share.sum()) @ x)
    up = np.concatenate(read) @ tree["mlp"]["up"]["kernel"] + tree["mlp"]["up"]["bias"]
    up = np.array([0.5 * u * (1 + _erf(u)) for u in up])
    out = up @ tree["mlp"]["down"]["kernel"] + tree["mlp"]["down"]["bias"]
    return out / np.linalg.norm(out)


def convolved(tree, frames, taps):
    """Convolve frames [T, D] tap by tap, with zeros before and after; GELU of that."""
    kernel = tree["kernel"].reshape(taps, frames.shape[1], -1)
    out = np.tile(tree["bias"], (len(frames), 1))
    for at in range(len(frames)):
        for tap in range(taps):
            source = at + tap - taps // 2
            if 0 <= source < len(frames):
                out[at] += frames[source] @ kernel[tap]
    gelu = np.vectorize(lambda u: 0.5 * u * (1 + _erf(u)), otypes=[float])
    return gelu(out)


def _erf(u: float) -> float:
    import math

    return math.erf(u / math.sqrt(2))


@pytest.mark.parametrize("modality", ["speech", "image"])
def test_values_and_padding(model_and_params, modality):
    model, params = model_and_params
    rng = np.random.default_rng(0)
    tokens = (3 * rng.normal(size=(4, 7, 32))).astype(np.float32)
    mask = np.arange(7) < np.array([[7], [3], [1], [5]])
    pool = jax.jit(
        lambda *encoded: model.apply(
            {"params": params}, Encoded(*encoded, None), modality, method="pool"
        )
    )
    out = pool(tokens, mask)
    assert out.shape == (4, model.pooled_width) == (4, 6)
    tree = params[f"pool_{modality}"]
    of_speech = ()
    if modality == "speech":
        of_speech = model.match_spec.places, model.match_spec.taps
    expected = [reference(tree, *one, *of_speech) for one in zip(tokens, mask, strict=True)]
    np.testing.assert_allclose(out, expected, atol=2e-6)
    # What stands in the padding, and how long it is, does not matter.
    noisy = np.where(mask[..., None], tokens, 1e3)
    longer = np.pad(noisy, ((0, 0), (0, 4), (0, 0))), np.pad(mask, ((0, 0), (0, 4)))
    again = pool(*longer)
    np.testing.assert_allclose(again, out, atol=1e-6)


def test_a_model_that_only_pools_has_no_fusion_encoder(model_and_params):
    model, params = model_and_params
    assert "fusion" not in params and {"pool_speech", "pool_image"} <= params.keys()
    assert params["pool_speech"]["mlp"]["up"]["kernel"].shape == (3 * 32, 10)
    assert build_model(tiny_config().model, ("match",)).pooled_width == 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'cosine' is none of fusion, pooled, both, late"):
        MatchSpec(kind="cosine")


def test_an_image_head_of_this_kind_embeds_all_tokens():
    cfg = tiny_config(**{"model.image_head": "pool"})
    model = build_model(cfg.model)
    params = random_params(model)
    assert "image_projection" not in params
    pixels = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    tokens = model.apply({"params": params}, pixels, method="image_features").tokens
    out = model.apply({"params": params}, pixels, method="encode_image")
    np.testing.assert_array_equal(out.tokens, tokens)
    expected = [
        reference(params["image_head"], np.asarray(one), np.ones(len(one), bool)) for one in tokens
    ]
    assert out.embed.shape == (3, cfg.model.embed_width)
    np.testing.assert_allclose(out.embed, expected, atol=2e-6)


def test_queries_of_speech_read_the_first_token_and_the_encoders_frames():
    fields = {"kind": "pooled", "queries": 3, "hidden": 10, "width": 6, "frames": True}
    model = build_model(
        tiny_config(**{f"model.match.{name}": value for name, value in fields.items()}).model,
        ("pool",),
    )
    params = random_params(model)
    wave = np.random.default_rng(2).normal(size=(2, 4_000)).astype(np.float32)
    lengths = np.array([4_000, 2_000])

    @jax.jit
    def run(params):
        call = functools.partial(model.apply, {"params": params})
        encoded = call(wave, lengths, method="encode_speech")
        features = call(wave, lengths, method="speech_features")
        return features, encoded, call(encoded, "speech", method="pool")

    features, encoded, out = run(params)
    read = np.concatenate([encoded.tokens[:, :1], features.tokens], axis=1)
    assert np.abs(read[:, 1:] - encoded.tokens[:, 1:])[np.asarray(features.mask)].min() > 1e-6
    items = zip(read, np.asarray(encoded.mask), strict=True)
    expected = [reference(params["pool_speech"], *one) for one in items]
    np.testing.assert_allclose(out, expected, atol=2e-6)
