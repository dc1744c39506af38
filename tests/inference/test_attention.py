"""`Retriever.match` and `Retriever.attention` give the fusion encoder's own scores and weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_models import random_params

from sir_jax.data.media.audio import normalize_waveform
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.errors import UserError
from sir_jax.inference.attention import attend_pair
from sir_jax.inference.retriever import Retriever
from sir_jax.models import attention_maps, build_model


@pytest.fixture(scope="module")
def retriever(matching_workdir):
    return Retriever.load(matching_workdir, batch_size=4)


def encode_alone(retriever, wave, bucket, picture):
    """Encode one pair with the model's methods, in a batch of one; return (speech, image)."""
    padded = np.zeros((1, bucket), np.float32)
    padded[0, : len(wave)] = normalize_waveform(wave)
    pixels = preprocess_image(picture, ImageSpec.from_config(retriever.cfg.data))[None]
    return (
        apply(retriever, "encode_speech", padded, np.array([len(wave)])),
        apply(retriever, "encode_image", pixels),
    )


@functools.cache
def jitted(model, method):
    return jax.jit(functools.partial(model.apply, method=method))


def apply(retriever, method, *args):
    """Call a method of the model as one program: an operation alone would be one, too."""
    return jitted(retriever.model, method)({"params": retriever.params}, *args)


def test_match_is_the_models(retriever, folder, make_tone):
    wave = make_tone(20_000).astype(np.float32)
    paths = [folder / "b.png", folder / "a.jpg", folder / "d.bmp"]
    scores = retriever.match([(wave, 16_000)], paths)
    assert scores.shape == (3,) and scores.dtype == np.float32
    for path, score in zip(paths, scores, strict=True):
        pair = encode_alone(retriever, wave, 24_000, Image.open(path).convert("RGB"))
        logits = apply(retriever, "match", *pair)[0]
        assert score == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)


def test_pairs_one_to_one_and_one_to_many_agree(retriever, folder, make_tone):
    # The last clip is longer than the longest bucket, so it is cut into windows.
    clips = [(make_tone(n), 16_000) for n in (20_000, 9_000, 60_000)]
    pictures = [folder / "b.png", folder / "a.jpg", folder / "d.bmp"]
    pairs = retriever.match(clips, pictures)
    by_clip = np.stack([retriever.match([clip], pictures) for clip in clips])
    by_picture = np.stack([retriever.match(clips, [picture]) for picture in pictures], axis=1)
    np.testing.assert_allclose(by_clip, by_picture, atol=1e-5)
    np.testing.assert_allclose(pairs, np.diag(by_clip), atol=1e-5)
    assert retriever.match([], pictures).shape == (0,)


def test_lists_that_do_not_pair(retriever, folder, make_tone):
    with pytest.raises(UserError, match="2 recordings do not pair with 3 pictures"):
        retriever.match([(make_tone(400), 16_000)] * 2, [folder / "b.png"] * 3)


def test_a_model_without_matching_says_so(workdir, folder, query):
    plain = Retriever.load(workdir)
    assert not plain.can_match
    for ask in (
        lambda: plain.match([query], [folder / "b.png"]),
        lambda: plain.attention(query, folder / "b.png"),
    ):
        with pytest.raises(UserError, match="has no matching head"):
            ask()


def test_attention_is_the_models(retriever, folder, make_tone):
    wave, path = make_tone(20_000).astype(np.float32), folder / "b.png"
    attention = retriever.attention((wave, 16_000), path)
    speech, image = encode_alone(retriever, wave, 24_000, Image.open(path).convert("RGB"))
    maps = jax.jit(attention_maps, static_argnums=0)(
        retriever.model, retriever.params, speech, image
    )
    maps = np.asarray(maps).mean(axis=(0, 2))[0]
    valid = int(speech.mask.sum()) - 1
    expected = np.array(maps[1:, 1:])[:valid]
    expected /= expected.sum(axis=1, keepdims=True)
    frames = attention.weights.reshape(len(attention.weights), -1)
    np.testing.assert_allclose(frames[:valid], expected, atol=1e-5)
    np.testing.assert_allclose(frames.sum(axis=1), 1, atol=1e-5)
    assert attention.weights.shape[1:] == (2, 2) and attention.frame_seconds == 160 / 16_000
    assert attention.seconds == 1.25 and len(attention.by_frame) == 125
    assert (
        attention.by_frame.sum() == pytest.approx(1, abs=1e-5) and (attention.by_frame >= 0).all()
    )
    assert attention.by_patch.sum() == pytest.approx(1, abs=1e-5)
    assert attention.score == pytest.approx(
        float(retriever.match([(wave, 16_000)], [path])[0]), 1e-4
    )


def test_dependence_is_the_slope_of_the_score(retriever, folder, make_tone):
    wave, path = make_tone(20_000).astype(np.float32), folder / "b.png"
    attention = retriever.attention((wave, 16_000), path)
    speech, image = encode_alone(retriever, wave, 24_000, Image.open(path).convert("RGB"))

    mean = image.tokens[0, 1:].mean(axis=0)

    def score(patch: int, share: float) -> float:
        token = image.tokens[0, 1 + patch]
        tokens = image.tokens.at[0, 1 + patch].add(share * (mean - token))
        pair = speech, image._replace(tokens=tokens)
        logits = apply(retriever, "match", *pair)[0]
        return float(jnp.diff(logits)[0])

    # The change of the score when one patch's token moves a little towards the mean token.
    slopes = np.array([abs(score(p, 0.05) - score(p, -0.05)) for p in range(4)])
    np.testing.assert_allclose(attention.by_patch.reshape(-1), slopes / slopes.sum(), atol=0.02)


def test_late_interaction_matches_and_shows_the_patch_of_each_frame(workdir, folder, make_tone):
    cfg = Retriever.load(workdir).cfg.copy_and_resolve_references()
    cfg.data.buckets = (24_000,)
    # Of the encoder's frames: what is stored between encoding and matching are those.
    cfg.model.match.update(kind="late", width=6, frames=True)
    model = Retriever(cfg, random_params(build_model(cfg.model, ("match",))), batch_size=1)
    wave, path = make_tone(20_000).astype(np.float32), folder / "b.png"
    pair = encode_alone(model, wave, 24_000, Image.open(path).convert("RGB"))
    expected = float(apply(model, "match", *pair)[0, 1])
    head = pair[0]._replace(frames=None)
    assert expected != pytest.approx(float(apply(model, "match", head, pair[1])[0, 1]), abs=1e-4)
    assert model.match([(wave, 16_000)], [path]) == pytest.approx(expected, abs=1e-5)
    attention = model.attention((wave, 16_000), path)
    assert attention.score == pytest.approx(expected, abs=1e-5)
    cosines = apply(model, "cosines", *pair)[0, :, 1:]
    valid = int(pair[0].mask.sum()) - 1
    frames = attention.weights.reshape(len(attention.weights), -1)[:valid]
    np.testing.assert_array_equal(frames, np.eye(4)[cosines.argmax(axis=-1)][:valid])
    assert (attention.by_frame[:valid] > 0).all() and attention.by_patch.max() > 0


def test_the_box_is_the_part_that_the_encoder_sees(retriever, make_tone):
    wide = Image.new("RGB", (40, 20))
    attention = retriever.attention((make_tone(16_000), 16_000), wide)
    assert attention.box == (10.0, 0.0, 30.0, 20.0)


def test_a_long_recording_is_processed_window_by_window(retriever, folder, make_tone):
    wave = make_tone(100_000)  # windows of 48,000 at 0, 48,000 and 52,000
    attention = retriever.attention((wave, 16_000), folder / "b.png")
    last = retriever.attention((wave[52_000:], 16_000), folder / "b.png")
    frames = 48_000 // 160 - 2
    start = 52_000 // 160
    np.testing.assert_allclose(
        attention.weights[start : start + frames], last.weights[:frames], atol=1e-5
    )
    assert len(attention.by_frame) == -(-100_000 // 160)


def test_quiet_ends_that_are_cut_off_keep_their_place_in_time(retriever, folder, make_tone):
    wave = make_tone(8_000).astype(np.float32)
    late = np.concatenate([np.zeros(16_000, np.float32), wave])
    data = ConfigDict(retriever.cfg.data.to_dict() | {"trim_silence": "speech"})
    parts = retriever.model, retriever.params, data
    picture = Image.open(folder / "b.png").convert("RGB")
    attention = attend_pair(*parts, late, picture)
    # 20 ms of quiet are left before the tone.
    alone = attend_pair(*parts, late[16_000 - 320 :], picture)
    start = (16_000 - 320) // 160
    np.testing.assert_allclose(attention.weights[start:], alone.weights, atol=1e-6)
    assert attention.score == pytest.approx(alone.score, abs=1e-5)
    np.testing.assert_allclose(attention.weights[:start], 1 / 4)
    assert attention.seconds == 1.5


def test_an_interval_is_the_mean_of_its_frames(retriever, folder, make_tone):
    attention = retriever.attention((make_tone(20_000), 16_000), folder / "b.png")
    one = attention.during(0.1, 0.1)
    np.testing.assert_allclose(one, attention.weights[10], atol=1e-5)
    whole = attention.during(0, 99)
    expected = np.einsum("t,tij->ij", attention.by_frame, attention.weights)
    np.testing.assert_allclose(whole, expected, atol=1e-4)


def test_silence_and_an_empty_recording(retriever, folder):
    with pytest.raises(UserError, match="holds no sound"):
        retriever.attention((np.zeros(0), 16_000), folder / "b.png")
    for samples in (1, 399):
        attention = retriever.attention((np.zeros(samples), 16_000), folder / "b.png")
        assert np.isfinite(attention.weights).all() and np.isfinite(attention.score)
