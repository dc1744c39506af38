"""The objective of the small image encoder, and a short run of it."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from spoken_split import SpokenSplit

from sir_jax import pretrained
from sir_jax.config.presets import base_config
from sir_jax.errors import UserError
from sir_jax.models import VitSpec
from sir_jax.models.vit import VitOutput
from sir_jax.training.pretraining.image import Tags, image_loss, pretrain_image
from sir_jax.training.pretraining.run import Options

WORDS = ["blue", "circle", "red", "square"]
SPEC = VitSpec(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=32)


def data_config():
    cfg = base_config("tiny", "tiny")
    cfg.data.update(batch_size=4, buckets=(4_000,), image_size=16)
    return cfg.data


def test_tags_have_the_expected_values(tmp_path):
    tags = Tags(SpokenSplit(tmp_path), WORDS)
    # 'blue circle': both words, and the pair (1, 2) at 5 (1 + 1) + 2.
    assert np.flatnonzero(tags.of(np.array([13]))[0]).tolist() == [1, 2, 12]
    assert tags.of(np.array([13])).shape == (1, 5 * 6)
    # A red circle with a blue square has the words of a blue circle with a red square.
    assert not np.array_equal(tags.of(np.array([10])), tags.of(np.array([12])))


def test_loss_has_the_expected_value():
    logits = np.array([[-9.0, 2.0, -1.0], [-9.0, -1.0, 3.0]], np.float32)
    tags = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]], np.float32)
    module = SimpleNamespace(apply=lambda *a, **k: VitOutput(None, jnp.asarray(logits), ()))
    params = {"encoder": {}, "head": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    loss, terms = image_loss(params, {"pixels": None, "tags": tags}, None, module=module)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(tags * np.log(p) + (1 - tags) * np.log(1 - p)).sum(1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(terms["right"]) == 1.0


def test_a_short_run_learns_and_its_file_loads(tmp_path, capsys):
    options = Options(
        str(tmp_path), steps=40, until=30, learning_rate=3e-3, log_every=10, save_every=100
    )
    params = pretrain_image(SPEC, [SpokenSplit(tmp_path)], WORDS, data_config(), options)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert len(losses) == 3 and losses[-1] < 0.9 * losses[0]
    loaded_spec, loaded = pretrained.load(str(tmp_path / "image"))
    assert loaded_spec == SPEC
    kernels = (p["patch_embed"]["kernel"] for p in (loaded, params))
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-4)


def test_training_continues_from_an_encoder(tmp_path):
    split = [SpokenSplit(tmp_path)]
    options = Options(str(tmp_path / "a"), steps=2, until=1, learning_rate=0.0)
    first = pretrain_image(SPEC, split, WORDS, data_config(), options)
    options = dataclasses.replace(
        options, init=str(tmp_path / "a" / "image"), out=str(tmp_path / "b")
    )
    second = pretrain_image(SPEC, split, WORDS, data_config(), options)
    kernels = (p["patch_embed"]["kernel"] for p in (second, first))
    np.testing.assert_allclose(*kernels, atol=1e-4)
    deeper = dataclasses.replace(SPEC, layers=2)
    with pytest.raises(UserError, match="tower 'image' is"):
        pretrain_image(deeper, split, WORDS, data_config(), options)
