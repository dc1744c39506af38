"""The small speech encoder: its targets, its batches, its objective, and a run that is killed."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from spoken_split import SpokenSplit

from sir_jax import pretrained
from sir_jax.data.media.augment import AugmentSpec
from sir_jax.errors import UserError
from sir_jax.models import HubertSpec
from sir_jax.models.hubert import HubertOutput
from sir_jax.training.pretraining import make_speech
from sir_jax.training.pretraining.clips import (
    Buckets,
    Mixture,
    Source,
    teacher_at,
    token_seconds,
)
from sir_jax.training.pretraining.make_speech import SpeechOptions, pretrain_speech
from sir_jax.training.pretraining.phones import Alphabet
from sir_jax.training.pretraining.run import Options
from sir_jax.training.pretraining.speech import Scale, phone_errors, speech_loss
from sir_jax.training.pretraining.targets import make_targets
from sir_jax.training.pretraining.teacher import STEP, WIDTH, Teacher

SPEC = HubertSpec(
    width=32,
    layers=1,
    heads=2,
    mlp_width=32,
    conv_width=(8, 16),
    conv_kernel=(20, 16),
    conv_stride=(20, 16),
    conv_bias=True,
    conv_norm="layer",
    pos_kernel=4,
    pos_groups=2,
    norm_first=True,
    dropout=0.0,
)
BUCKETS = Buckets((4_000, 8_000), seconds=1.0)


def heard(wave):
    """Return made-up frames: the loudness of the sound around each."""
    count = 1 + int(len(wave) / 16_000 / STEP)
    loudness = [np.abs(wave[int(1_280 * k) :][:1_280]).mean() for k in range(count)]
    return np.tile(np.array(loudness, np.float32)[:, None], (1, WIDTH))


def spell(text, language):
    assert language in ("en", "fr")
    return " ".join(word[0] for word in text.split()) if language == "en" else ""


def source(split, folder):
    return Source(split, make_targets(split, folder / "targets", lambda: heard, spell))


def test_targets_are_made_once(tmp_path):
    split = SpokenSplit(tmp_path)
    made = make_targets(split, tmp_path, lambda: heard, spell)
    assert made.phones[:3] == ("rc", "rc", "bs")
    assert set(made.groups) == {"espeak en"} and made.samples[:2].tolist() == [3_000, 3_100]
    np.testing.assert_allclose(made.teacher(0).mean(), 0.14, atol=0.03)  # 9,000 / 32,768 / 2
    assert made.teacher(0).shape == (3, WIDTH)
    again = make_targets(split, tmp_path, None, None)
    assert again.phones == made.phones
    np.testing.assert_array_equal(again.frames, made.frames)


def test_tokens_lie_in_the_middle_of_what_they_heard():
    # A token hears 20 + 15 * 20 samples; the next one begins 320 samples later.
    np.testing.assert_allclose(token_seconds(SPEC, 3), np.array([160, 480, 800]) / 16_000)


def test_teacher_is_interpolated_and_silence_has_no_target():
    frames = np.arange(4, dtype=np.float32)[:, None] * np.ones(WIDTH, np.float32)
    values, valid = teacher_at(frames, STEP * np.array([0.0, 0.5, 2.25, np.nan, 3.5]))
    assert valid.tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(values[:3, 0], [0, 0.5, 2.25], rtol=1e-6)


def test_batches_hold_the_clips_that_were_drawn_and_their_targets(tmp_path):
    short = source(SpokenSplit(tmp_path / "a"), tmp_path)
    long = source(SpokenSplit(tmp_path / "b", 6_000, "human", "fr"), tmp_path)
    beyond = source(SpokenSplit(tmp_path / "c", 9_000, "human", "fr"), tmp_path)
    alphabet = Alphabet.of(short.targets.phones, 1)
    sources = [short, long, beyond]
    mixture = Mixture(sources, alphabet, SPEC, BUCKETS, AugmentSpec(), seed=0)
    assert mixture.groups == {"espeak of config": 8, "human fr": 8} and mixture.left_out == 8
    stream = mixture.batches(0)
    seen = {4_000: [], 8_000: []}
    for _ in range(12):
        batch = next(stream)
        rows, samples = batch["wave"].shape
        assert rows == BUCKETS.rows(BUCKETS.of(samples))
        assert ((batch["lengths"] > 2_900) & (batch["lengths"] <= samples)).all()
        seen[samples].append(batch)
        for row in range(rows):
            phones = batch["phones"][row][batch["no_phone"][row] == 0]
            # French has no transcription here.
            spoken = "".join(alphabet.phones[i - 1] for i in phones)
            assert (spoken in short.targets.phones) == (samples == 4_000)
            inside = batch["heard"][row]
            assert inside.sum() >= 7 and 0.1 < batch["frames"][row][inside].mean() < 0.2
    assert seen[4_000] and seen[8_000]
    first = next(mixture.batches(0))
    np.testing.assert_array_equal(first["wave"], next(mixture.batches(0))["wave"])
    assert not np.array_equal(first["wave"], next(mixture.batches(1))["wave"])


def test_silence_in_front_moves_the_targets_with_the_words(tmp_path):
    spec = dataclasses.replace(
        AugmentSpec(), silence=1.0, before=(0.1, 0.1), after=(0.0, 0.0), digital=1.0
    )
    clips = source(SpokenSplit(tmp_path), tmp_path)
    mixture = Mixture([clips], Alphabet("a"), SPEC, Buckets((8_000,), 2.0), spec, seed=0)
    batch = next(mixture.batches(0))
    # 1,600 samples are 5 tokens.
    assert not batch["heard"][:, :4].any() and batch["heard"][:, 6:10].all()


def fixed_speech(logits, mask):
    """Return a module whose tokens are given, and heads that read them."""
    tokens = jnp.asarray(logits, jnp.float32)
    module = SimpleNamespace(apply=lambda *a, **k: HubertOutput(tokens, jnp.asarray(mask), ()))
    same = {"kernel": jnp.eye(tokens.shape[-1]), "bias": jnp.zeros(tokens.shape[-1])}
    head = {"kernel": jnp.ones((tokens.shape[-1], WIDTH)), "bias": jnp.zeros(WIDTH)}
    return module, {"encoder": {}, "phones": same, "teacher": head}


def test_loss_has_the_expected_value():
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(3, 5, 4)), np.ones((3, 5), bool)
    mask[1, 4] = False
    phones = np.array([[1, 2], [3, 0], [0, 0]])  # the third clip has no text
    no_phone = np.float32([[0, 0], [0, 1], [1, 1]])
    frames = rng.normal(size=(3, 5, WIDTH)).astype(np.float32)
    some = rng.random((3, 5)) < 0.7
    batch = {
        "wave": None,
        "lengths": None,
        "frames": frames,
        "heard": some,
        "phones": phones,
        "no_phone": no_phone,
    }
    module, params = fixed_speech(logits, mask)
    scale = Scale(np.full(WIDTH, 0.5, np.float32), np.full(WIDTH, 2.0, np.float32))
    loss, terms = speech_loss(params, batch, None, module=module, scale=scale, teacher_weight=3.0)
    each = optax.ctc_loss(jnp.float32(logits), 1.0 - mask, phones, no_phone)
    spelling = float(each[0] + each[1]) / 3
    error = np.square(logits.sum(-1, keepdims=True) - (frames - 0.5) / 2).mean(-1)
    hearing = error[some & mask].mean()
    assert float(terms["ctc"]) == pytest.approx(spelling, rel=1e-5)
    assert float(terms["teacher"]) == pytest.approx(hearing, rel=1e-5)
    assert float(loss) == pytest.approx(spelling + 3 * hearing, rel=1e-5)


def run(folder, until):
    """Pretrain on noise up to a step of ten; return the parameters."""
    options = Options(str(folder / "out"), steps=10, until=until, learning_rate=3e-3, log_every=5)
    speech = SpeechOptions(folder / "run", folder, buckets=BUCKETS)
    split = SpokenSplit(folder)
    return pretrain_speech(SPEC, [split], [split], spell, options, speech)


def test_a_killed_run_goes_on_and_its_file_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_speech, "Teacher", lambda folder: SimpleNamespace(frames=heard))
    monkeypatch.setattr(make_speech, "LEAST", 1)
    run(tmp_path, until=5)
    assert "goes on" not in capsys.readouterr().out
    params = run(tmp_path, until=10)
    out = capsys.readouterr().out
    assert "goes on after step 5" in out and "step 10/10 ctc" in out
    assert "train: espeak en: " in out and "of 8 clips" in out
    spec, loaded = pretrained.load(str(tmp_path / "out" / "speech"))
    assert spec == SPEC
    kernels = (p["feature_projection"]["kernel"] for p in (loaded, params))
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"is of another run \(10 steps, .* another --workdir"):
        options = Options(str(tmp_path), steps=12)
        speech = SpeechOptions(tmp_path / "run", tmp_path, buckets=BUCKETS)
        pretrain_speech(SPEC, [SpokenSplit(tmp_path)], [], spell, options, speech)


def test_phone_errors_are_counted_by_group(tmp_path):
    clips = source(SpokenSplit(tmp_path), tmp_path)
    alphabet = Alphabet.of(clips.targets.phones, 1)
    # Whatever is heard: nothing is said, so that every phone is an error.
    module, params = fixed_speech(np.eye(1 + len(alphabet))[None, [0] * 9], np.ones((1, 9), bool))
    (errors,) = phone_errors(params, module, clips, alphabet, most=3).values()
    spoken = [clips.targets.phones[i] for i in (0, 3, 7)]
    assert errors == (sum(map(len, spoken)), sum(map(len, spoken)), 3)


def test_missing_teacher_is_one_line(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match=r"has no melspectrogram.onnx of the teacher; run: pip"):
        Teacher(tmp_path)
