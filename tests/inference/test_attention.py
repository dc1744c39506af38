"""Match scores and attention maps are the fusion encoder's own."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sir_jax.data.media.audio import normalize_waveform
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.errors import UserError
from sir_jax.inference.retriever import Retriever
from sir_jax.models import attention_maps


@pytest.fixture(scope="module")
def retriever(matching_workdir):
    return Retriever.load(matching_workdir, batch_size=4)


def by_the_model(retriever, wave, bucket, picture):
    """Return (speech, image) encoded by the model itself, batch of one."""
    padded = np.zeros((1, bucket), np.float32)
    padded[0, : len(wave)] = normalize_waveform(wave)
    pixels = preprocess_image(picture, ImageSpec.from_config(retriever.cfg.data))[None]
    params = {"params": retriever.params}
    return (
        retriever.model.apply(params, padded, np.array([len(wave)]), method="encode_speech"),
        retriever.model.apply(params, pixels, method="encode_image"),
    )


def test_match_is_the_models(retriever, folder, make_tone):
    wave = make_tone(20_000).astype(np.float32)
    paths = [folder / "b.png", folder / "a.jpg", folder / "d.bmp"]
    scores = retriever.match([(wave, 16_000)], paths)
    assert scores.shape == (3,) and scores.dtype == np.float32
    for path, score in zip(paths, scores, strict=True):
        pair = by_the_model(retriever, wave, 24_000, Image.open(path).convert("RGB"))
        logits = retriever.model.apply({"params": retriever.params}, *pair, method="match")[0]
        assert score == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)


def test_pairs_one_to_one_and_one_to_many_agree(retriever, folder, make_tone):
    clips = [(make_tone(n), 16_000) for n in (20_000, 9_000, 60_000)]  # the last one in windows
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
    found = retriever.attention((wave, 16_000), path)
    speech, image = by_the_model(retriever, wave, 24_000, Image.open(path).convert("RGB"))
    maps = attention_maps(retriever.model, retriever.params, speech, image).mean(axis=(0, 2))[0]
    valid = int(speech.mask.sum()) - 1
    wanted = np.array(maps[1:, 1:])[:valid]
    wanted /= wanted.sum(axis=1, keepdims=True)
    frames = found.weights.reshape(len(found.weights), -1)
    np.testing.assert_allclose(frames[:valid], wanted, atol=1e-5)
    np.testing.assert_allclose(frames.sum(axis=1), 1, atol=1e-5)
    assert found.weights.shape[1:] == (2, 2) and found.frame_seconds == 320 / 16_000
    assert found.seconds == 1.25 and len(found.by_frame) == 63  # 62.5 frames of sound
    assert found.by_frame.sum() == pytest.approx(1, abs=1e-5) and (found.by_frame >= 0).all()
    assert found.by_patch.sum() == pytest.approx(1, abs=1e-5)
    assert found.score == pytest.approx(float(retriever.match([(wave, 16_000)], [path])[0]), 1e-4)


def test_dependence_is_the_slope_of_the_score(retriever, folder, make_tone):
    wave, path = make_tone(20_000).astype(np.float32), folder / "b.png"
    found = retriever.attention((wave, 16_000), path)
    speech, image = by_the_model(retriever, wave, 24_000, Image.open(path).convert("RGB"))

    mean = image.tokens[0, 1:].mean(axis=0)

    def score(patch: int, share: float) -> float:
        token = image.tokens[0, 1 + patch]
        tokens = image.tokens.at[0, 1 + patch].add(share * (mean - token))
        pair = speech, image._replace(tokens=tokens)
        logits = retriever.model.apply({"params": retriever.params}, *pair, method="match")[0]
        return float(jnp.diff(logits)[0])

    # The change of the score where one patch's token moves a little to the mean of all, and away.
    slopes = np.array([abs(score(p, 0.05) - score(p, -0.05)) for p in range(4)])
    np.testing.assert_allclose(found.by_patch.reshape(-1), slopes / slopes.sum(), atol=0.02)


def test_the_box_is_what_the_encoder_sees(retriever, make_tone):
    wide = Image.new("RGB", (40, 20))
    found = retriever.attention((make_tone(16_000), 16_000), wide)
    assert found.box == (10.0, 0.0, 30.0, 20.0)


def test_a_long_recording_is_looked_at_window_by_window(retriever, folder, make_tone):
    wave = make_tone(100_000)  # windows of 48,000 at 0, 48,000 and 52,000
    found = retriever.attention((wave, 16_000), folder / "b.png")
    last = retriever.attention((wave[52_000:], 16_000), folder / "b.png")
    frames = 48_000 // 320 - 2
    start = 52_000 // 320
    np.testing.assert_allclose(
        found.weights[start : start + frames], last.weights[:frames], atol=1e-5
    )
    assert len(found.by_frame) == -(-100_000 // 320)


def test_a_stretch_is_the_mean_of_its_frames(retriever, folder, make_tone):
    found = retriever.attention((make_tone(20_000), 16_000), folder / "b.png")
    one = found.during(0.1, 0.1)
    np.testing.assert_allclose(one, found.weights[5], atol=1e-5)
    whole = found.during(0, 99)
    wanted = np.einsum("t,tij->ij", found.by_frame, found.weights)
    np.testing.assert_allclose(whole, wanted, atol=1e-4)


def test_silence_and_nothing_at_all(retriever, folder):
    for samples in (0, 1, 399):
        found = retriever.attention((np.zeros(samples), 16_000), folder / "b.png")
        assert np.isfinite(found.weights).all() and np.isfinite(found.score)
