"""HuBERT base at its published width: padding changes no feature, and clips may have any length.

Two of its twelve layers see the same; all of them run behind `--all`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_params

from sir_jax.config.presets import base_config
from sir_jax.inference.embed import embed_speech
from sir_jax.models import build_model
from sir_jax.models.hubert import conv_lengths
from sir_jax.runtime.trees import map_with_path

pytestmark = pytest.mark.slow

BUCKETS = (24_000, 40_000)
# As many windows as a recording of five minutes has behind `--all`, or as one of six seconds has.
LONG = {12: 5 * 60 * 16_000, 2: 6 * 16_000}


@pytest.fixture(scope="module", params=[2, pytest.param(12, marks=pytest.mark.release)])
def base(request):
    """Return the config, the model and perturbed parameters; only the image encoder is small."""
    c = base_config("base", "tiny")
    c.data.buckets = BUCKETS
    assert c.model.speech.layers == 12
    c.model.speech.layers = request.param
    model = build_model(c.model)
    assert (model.speech_spec.conv_norm, model.speech_spec.width) == ("group", 768)
    # Norms and biases leave their initial values, as in trained weights. The rest is smaller than
    # what suits a width of 32.
    params = map_with_path(
        lambda path, x: x if path.endswith(("scale", "/g")) else np.float32(0.2) * x,
        random_params(model),
    )
    return c, model, params


@pytest.fixture(scope="module")
def encode(base):
    _, model, params = base
    # Parameters that a program held as constants would take most of its compilation.
    run = jax.jit(
        lambda params, *args: model.apply({"params": params}, *args, method="encode_speech")
    )
    params = jax.device_put(params)

    def encode(clips, bucket):
        wave = np.zeros((len(clips), bucket), np.float32)
        for row, clip in zip(wave, clips, strict=True):
            row[: len(clip)] = clip
        return run(params, wave, np.array([len(clip) for clip in clips], np.int32))

    return encode


def speech(samples, seed=0):
    """Return noise under a slow envelope, with loud and nearly silent parts."""
    rng = np.random.default_rng(seed)
    envelope = 0.05 + np.square(np.sin(np.arange(samples) / 3_000))
    return (envelope * rng.standard_normal(samples)).astype(np.float32)


def assert_same(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert (
        float(jnp.sum(actual * expected) / jnp.linalg.norm(actual) / jnp.linalg.norm(expected))
        >= 0.99999
    )


# At each change: test_speech_image.py, at width 32.
@pytest.mark.release
@pytest.mark.parametrize("bucket", BUCKETS)
def test_padding_and_the_rest_of_the_batch_change_no_feature(encode, bucket):
    clip = speech(21_011)
    alone = encode([clip], len(clip))
    frames = alone.tokens.shape[1]
    assert float(alone.tokens.std()) > 0.1
    for padded in (encode([clip], bucket), encode([clip, speech(bucket, seed=1)], bucket)):
        assert int(padded.mask[0].sum()) == frames
        assert_same(padded.embed[0], alone.embed[0])
        assert_same(padded.tokens[0, :frames], alone.tokens[0])


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401])
def test_shortest_clips(base, encode, samples):
    _, model, _ = base
    clip = speech(samples) + np.float32(0.1)
    actual = encode([clip], BUCKETS[0])
    assert int(actual.mask.sum()) == 2  # CLS and one frame
    assert int(conv_lengths(model.speech_spec, jnp.array([samples]))[0]) == 1
    # Clips are padded with zeros to the 400 samples of one frame; sample 401 is in no frame.
    assert_same(actual.embed[0], encode([np.pad(clip, (0, max(0, 400 - samples)))], 401).embed[0])


def test_long_recordings_are_windowed_the_same_way_every_time(base):
    c, model, params = base
    samples = LONG[model.speech_spec.layers]
    long = speech(samples)
    first, again = (embed_speech(model, params, [w], c.data, 4)[0] for w in (long, long.copy()))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all()
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    # The other clips of a call change nothing.
    short = speech(30_000, seed=3)
    pair = embed_speech(model, params, [short, long], c.data, 4)
    assert_same(pair[1], first)
    assert_same(pair[0], embed_speech(model, params, [short], c.data, 4)[0])
    # The end is used: without its last fifth the recording has another embedding.
    cut = embed_speech(model, params, [long[: samples * 4 // 5]], c.data, 4)[0]
    assert np.abs(first - cut).max() > 1e-6


# At each change: test_queries_of_a_long_row_go_in_pieces, in test_attention.py.
@pytest.mark.release
def test_a_minute_at_once_goes_through_the_encoder_in_pieces(base):
    _, model, params = base
    samples = 60 * 16_000
    wave, lengths = speech(samples)[None], jnp.array([samples])

    def tokens(wave, lengths):
        return model.apply({"params": params}, wave, lengths, method="encode_speech")

    compiled = jax.jit(tokens).lower(wave, lengths).compile()
    # 2,999 frames: the logits of one layer take 430 MB, those of 13 layers would take 5.6 GB.
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5e9
    out = compiled(wave, lengths)
    assert out.tokens.shape == (1, 3_000, 768) and bool(jnp.isfinite(out.tokens).all())
