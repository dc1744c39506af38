"""The objectives of the shipped encoders, and one short run of each."""

import dataclasses
import io
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax import pretrained
from sir_jax.config.presets import base_config
from sir_jax.data.corpus import INDEX_DTYPE, Caption, ImageRecord
from sir_jax.errors import UserError
from sir_jax.models import HubertSpec, VitSpec
from sir_jax.models.hubert import HubertOutput
from sir_jax.models.vit import VitOutput
from sir_jax.training.pretrain import (
    MAX_WORDS,
    Options,
    Transcripts,
    image_loss,
    pretrain,
    speech_loss,
)

WORDS = ["blue", "circle", "red", "square"]


class TinySplit:
    """Four images with two spoken captions each, as real FLAC and PNG bytes."""

    name = "train"

    def __init__(self):
        rng = np.random.default_rng(0)
        texts = ("red circle", "blue square", "red square", "blue circle")
        self.records = []
        for i, text in enumerate(texts):
            png, captions = io.BytesIO(), []
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(png, "PNG")
            for j in range(2):
                flac = io.BytesIO()
                wave = rng.integers(-9000, 9000, 3000 + 100 * j).astype(np.int16)
                soundfile.write(flac, wave, 16_000, format="FLAC")
                captions.append(Caption(flac.getvalue(), len(wave), 2 * i + j, text, "someone"))
            self.records.append(ImageRecord(png.getvalue(), 10 + i, tuple(captions)))
        self.index = np.array(
            [
                (row, slot, c.samples, r.image_id, c.caption_id)
                for row, r in enumerate(self.records)
                for slot, c in enumerate(r.captions)
            ],
            INDEX_DTYPE,
        )

    def __len__(self):
        return len(self.records)

    def __getitem__(self, row):
        return self.records[row]


def test_labels_and_tags_have_the_expected_values():
    words = Transcripts(TinySplit(), WORDS)
    labels, padding = words.labels(np.array([2, 1]))  # 'blue square', 'red circle'
    assert labels[:, :3].tolist() == [[1, 4, 0], [3, 2, 0]]
    assert padding.shape == (2, MAX_WORDS) and (1 - padding).sum(1).tolist() == [2, 2]
    # 'blue circle': both words, and the pair (1, 2) at 5 (1 + 1) + 2.
    assert np.flatnonzero(words.tags(np.array([13]))[0]).tolist() == [1, 2, 12]
    assert words.tags(np.array([13])).shape == (1, 5 * 6)
    # A red circle with a blue square has the words of a blue circle with a red square.
    assert not np.array_equal(words.tags(np.array([10])), words.tags(np.array([12])))


def fixed_speech(best, frames=None):
    """Return a module whose frames predict the classes `best` [B, T], and its parameters."""
    best = np.array(best)
    tokens = jnp.float32(20 * np.eye(5)[best])
    valid = np.arange(best.shape[1]) < (best.shape[1] if frames is None else frames)
    mask = jnp.broadcast_to(valid, best.shape)
    module = SimpleNamespace(apply=lambda *a, **k: HubertOutput(tokens, mask, ()))
    return module, {"encoder": {}, "head": {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}}


def speech_batch(*texts):
    labels = np.zeros((len(texts), MAX_WORDS), np.int32)
    padding = np.ones(labels.shape, np.float32)
    for i, numbers in enumerate(texts):
        labels[i, : len(numbers)], padding[i, : len(numbers)] = numbers, 0.0
    return {"wave": None, "lengths": None, "labels": labels, "padding": padding}


def test_greedy_decoding_drops_repeats_and_blanks():
    module, params = fixed_speech([[3, 3, 0, 2, 0, 0], [3, 0, 3, 2, 2, 2]])
    batch = speech_batch([3, 2], [3, 3, 2])
    loss, correct = speech_loss(params, batch, None, module=module, deterministic=True)
    assert float(correct) == 1.0
    assert float(loss) < 1e-3
    _, correct = speech_loss(
        params, speech_batch([3, 2], [3, 2]), None, module=module, deterministic=True
    )
    assert float(correct) == 0.5


def test_frames_beyond_the_mask_are_ignored():
    module, params = fixed_speech([[3, 0, 2, 1, 1, 1]], frames=3)
    loss, correct = speech_loss(
        params, speech_batch([3, 2]), None, module=module, deterministic=True
    )
    assert float(correct) == 1.0 and float(loss) < 1e-3


def test_image_loss_has_the_expected_value():
    logits = np.array([[-9.0, 2.0, -1.0], [-9.0, -1.0, 3.0]], np.float32)
    tags = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]], np.float32)
    module = SimpleNamespace(apply=lambda *a, **k: VitOutput(None, jnp.asarray(logits), ()))
    params = {"encoder": {}, "head": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    loss, correct = image_loss(
        params, {"pixels": None, "tags": tags}, None, module=module, deterministic=True
    )
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(tags * np.log(p) + (1 - tags) * np.log(1 - p)).sum(1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(correct) == 1.0


@pytest.mark.parametrize("tower", ["speech", "image"])
def test_a_short_run_learns_and_its_file_loads(tower, tmp_path, capsys):
    cfg = base_config("tiny", "tiny")
    cfg.data.update(batch_size=4, buckets=(4_000,), image_size=16)
    if tower == "speech":
        spec = HubertSpec(
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
    else:
        spec = VitSpec(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=32)
    options = Options(
        str(tmp_path), steps=40, until=30, learning_rate=3e-3, log_every=10, save_every=100
    )
    params = pretrain(tower, spec, [TinySplit()], WORDS, cfg.data, options)
    losses = [
        float(line.split("loss ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()
    ]
    assert len(losses) == 3 and losses[-1] < 0.9 * losses[0]
    loaded_spec, loaded = pretrained.load(str(tmp_path / tower))
    assert loaded_spec == spec
    name = "feature_projection" if tower == "speech" else "patch_embed"
    np.testing.assert_allclose(loaded[name]["kernel"], params[name]["kernel"], rtol=1e-3, atol=1e-4)


def test_training_continues_from_an_encoder(tmp_path, capsys):
    spec = VitSpec(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=32)
    cfg = base_config("tiny", "tiny")
    cfg.data.update(batch_size=4, buckets=(4_000,), image_size=16)
    options = Options(str(tmp_path / "a"), steps=2, until=1, learning_rate=0.0)
    first = pretrain("image", spec, [TinySplit()], WORDS, cfg.data, options)
    options = dataclasses.replace(
        options, init=str(tmp_path / "a" / "image"), out=str(tmp_path / "b")
    )
    second = pretrain("image", spec, [TinySplit()], WORDS, cfg.data, options)
    np.testing.assert_allclose(
        second["patch_embed"]["kernel"], first["patch_embed"]["kernel"], atol=1e-4
    )
    deeper = dataclasses.replace(spec, layers=2)
    with pytest.raises(UserError, match="tower 'image' is"):
        pretrain("image", deeper, [TinySplit()], WORDS, cfg.data, options)
