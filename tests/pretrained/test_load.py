"""Damaged and foreign checkpoints are refused by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sir_jax import pretrained
from sir_jax.base_config import base_config
from sir_jax.errors import UserError


@pytest.fixture
def folder(hubert, tmp_path):
    hubert.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NAME = "encoder.layers.1.attention.k_proj.weight"


def test_missing_tensor_is_named(folder):
    rewrite(folder, lambda t: t.pop(NAME))
    with pytest.raises(UserError, match="leaf layers_01/attention/key/kernel has no tensor"):
        pretrained.load(str(folder))


def test_extra_and_misshapen_tensors_are_named_together(folder):
    rewrite(folder, lambda t: t.update({NAME: np.zeros((3, 32), np.float32),
                                        "encoder.extra": np.zeros(1, np.float32)}))  # fmt: skip
    with pytest.raises(UserError) as caught:
        pretrained.load(str(folder))
    assert f"tensor {NAME} has shape (32, 3), not (32, 32)" in str(caught.value)
    assert "tensor encoder.extra is unknown" in str(caught.value)


def test_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors cannot be read"):
        pretrained.load(str(folder))


def test_foreign_family_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "whisper"}))
    with pytest.raises(UserError, match="is a 'whisper' checkpoint"):
        pretrained.load(str(folder))


def test_prefixed_and_old_weight_norm_spellings_load_alike(folder):
    _, expected = pretrained.load(str(folder))

    def old(tensors):
        for name in list(tensors):
            new = name.replace("parametrizations.weight.original0", "weight_g")
            new = new.replace("parametrizations.weight.original1", "weight_v")
            tensors["hubert." + new] = tensors.pop(name)

    rewrite(folder, old)
    _, got = pretrained.load(str(folder))
    np.testing.assert_array_equal(got["positional_conv"]["v"], expected["positional_conv"]["v"])
    np.testing.assert_array_equal(got["positional_conv"]["g"], expected["positional_conv"]["g"])


def test_directory_without_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no config.json"):
        pretrained.load(str(tmp_path))


def test_checkpoint_of_another_shape_than_the_config_is_refused(folder):
    cfg = base_config("tiny", "tiny")
    cfg.init.speech = str(folder)
    with pytest.raises(UserError, match=r"differs from the config: width \(32 there\)"):
        pretrained.load_encoders(cfg, {})


def test_image_checkpoint_is_no_speech_encoder(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    cfg = base_config("tiny", "tiny")
    cfg.init.speech = str(tmp_path)
    with pytest.raises(UserError, match="is not a speech encoder"):
        pretrained.load_encoders(cfg, {})
