"""Checkpoints as the start of a training: what must be equal to the config, and what may differ."""

import dataclasses
import json

import numpy as np
import pytest

from sir_jax import pretrained
from sir_jax.config.presets import base_config
from sir_jax.errors import UserError


def write_processor(folder, **fields):
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))


@pytest.fixture
def speech(hubert, tmp_path):
    """Return a config that starts from a tiny HuBERT, and that checkpoint's folder."""
    hubert.save_pretrained(tmp_path)
    cfg = base_config("tiny", "tiny")
    cfg.init.speech = str(tmp_path)
    cfg.model.speech.update(dataclasses.asdict(pretrained.load(tmp_path)[0]))
    return cfg, tmp_path


def image_config(model, folder):
    model.save_pretrained(folder)
    cfg = base_config("tiny", "tiny")
    cfg.init.image = str(folder)
    spec, params = pretrained.load(folder)
    cfg.model.image.update(dataclasses.asdict(getattr(spec, "vision", spec)))
    cfg.data.image_size = cfg.model.image.image_size
    return cfg, spec, params


def test_both_towers_are_replaced_and_the_rest_stays(speech, clip, tmp_path_factory):
    cfg, folder = speech
    image, _, expected = image_config(clip, tmp_path_factory.mktemp("clip"))
    cfg.init.image, cfg.model.image = image.init.image, image.model.image
    before = {"speech": "random", "image": "random", "head": "kept"}
    after = pretrained.load_encoders(cfg, before)
    assert before == {"speech": "random", "image": "random", "head": "kept"}
    assert after["head"] == "kept"
    np.testing.assert_array_equal(after["image"]["cls"], expected["cls"])
    g = pretrained.load(folder)[1]["positional_conv"]["g"]
    np.testing.assert_array_equal(after["speech"]["positional_conv"]["g"], g)


def test_dropout_may_differ(speech):
    cfg, _ = speech
    cfg.model.speech.dropout = 0.77
    assert "speech" in pretrained.load_encoders(cfg, {})


def test_checkpoint_of_another_shape_than_the_config_is_refused(speech):
    cfg, _ = speech
    cfg.model.speech.width = 64
    with pytest.raises(UserError, match=r"differs from the config: width \(32 there\)"):
        pretrained.load_encoders(cfg, {})


def test_image_checkpoint_is_no_speech_encoder(clip, speech, tmp_path):
    cfg, _ = speech
    clip.save_pretrained(tmp_path)
    cfg.init.speech = str(tmp_path)
    with pytest.raises(UserError, match="is no speech encoder"):
        pretrained.load_encoders(cfg, {})


def test_speech_checkpoint_is_no_image_encoder(speech):
    cfg, folder = speech
    cfg.init.speech, cfg.init.image = "", str(folder)
    with pytest.raises(UserError, match="is no image encoder"):
        pretrained.load_encoders(cfg, {})


def test_image_of_another_size_resizes_the_positions(clip, tmp_path):
    cfg, _, _ = image_config(clip, tmp_path)
    cfg.data.image_size = cfg.model.image.image_size = 48
    # The processor's own size is then not what counts.
    write_processor(tmp_path, size=32, crop_size=32)
    got = pretrained.load_encoders(cfg, {})["image"]
    expected = pretrained.load(tmp_path, image_size=48)[1]
    assert got["position"].shape == (37, 32)
    np.testing.assert_array_equal(got["position"], expected["position"])


def test_another_size_and_another_width_is_refused_by_width(clip, tmp_path):
    cfg, _, _ = image_config(clip, tmp_path)
    cfg.model.image.update(image_size=48, width=64)
    with pytest.raises(UserError, match=r"width \(32 there\)"):
        pretrained.load_encoders(cfg, {})


def test_qformer_wanted_of_a_checkpoint_without_one_is_refused(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    cfg = base_config("tiny", "tiny")
    cfg.init.image = str(tmp_path)
    cfg.model.image_head = "qformer"
    with pytest.raises(UserError, match="has no Q-Former and model.image_head is 'qformer'"):
        pretrained.load_encoders(cfg, {})


def test_qformer_goes_to_the_image_head(make_blip2, tmp_path):
    cfg, spec, params = image_config(make_blip2("Blip2VisionModelWithProjection"), tmp_path)
    loaded = pretrained.load_encoders(cfg, {"image_head": "kept"})
    assert loaded["image_head"] == "kept"
    np.testing.assert_array_equal(loaded["image"]["cls"], params["vision"]["cls"])
    cfg.model.image_head = "qformer"
    cfg.model.qformer.update(dataclasses.asdict(spec.qformer))
    loaded = pretrained.load_encoders(cfg, {"image_head": "random"})
    np.testing.assert_array_equal(loaded["image_head"]["queries"], params["qformer"]["queries"])
    cfg.model.qformer.projection = 0
    with pytest.raises(UserError, match=r"model.qformer.projection \(12 there\)"):
        pretrained.load_encoders(cfg, {})


def test_encoder_of_another_form_is_refused(blip2_vision, tmp_path):
    cfg, _, _ = image_config(blip2_vision, tmp_path)
    cfg.model.image.form = "clip"
    with pytest.raises(UserError, match=r"form \(blip2 there\)"):
        pretrained.load_encoders(cfg, {})


def test_speech_that_is_prepared_otherwise_is_refused_by_field(speech):
    cfg, folder = speech
    write_processor(folder, do_normalize=True)
    pretrained.load_encoders(cfg, {})
    write_processor(folder, do_normalize=False)
    with pytest.raises(UserError, match=r"set data.normalize_wave=False \(here True\)"):
        pretrained.load_encoders(cfg, {})
    cfg.data.normalize_wave = False
    pretrained.load_encoders(cfg, {})


def test_pictures_that_are_prepared_otherwise_are_refused_by_field(clip, tmp_path):
    cfg, _, _ = image_config(clip, tmp_path)
    write_processor(tmp_path, size=32, crop_size=32)
    pretrained.load_encoders(cfg, {})
    write_processor(tmp_path, size=40, crop_size=40, image_mean=[0.5, 0.5, 0.5])
    with pytest.raises(UserError) as caught:
        pretrained.load_encoders(cfg, {})
    assert "data.image_size=40 (here 32)" in str(caught.value)
    assert "data.image_mean=(0.5, 0.5, 0.5) (here (0.48" in str(caught.value)
    assert "image_std" not in str(caught.value)


def test_blip2_wants_its_pictures_squashed(blip2_vision, tmp_path):
    cfg, _, _ = image_config(blip2_vision, tmp_path)
    write_processor(tmp_path, size=dict(height=32, width=32))
    with pytest.raises(UserError, match=r"set data.image_fit=squash \(here crop\)"):
        pretrained.load_encoders(cfg, {})
    cfg.data.image_fit = "squash"
    pretrained.load_encoders(cfg, {})
