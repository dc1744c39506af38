"""Tiny encoders equal `transformers` layer by layer, through files on disk and back."""

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from sir_jax import pretrained
from sir_jax.models.hubert import Hubert
from sir_jax.models.vit import Vit

ATOL = 2e-5


def assert_equal_layers(ours, theirs):
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(a, b.numpy(), atol=ATOL, err_msg=f"hidden state {i}")


def test_hubert_equals_transformers_layer_by_layer(hubert, tmp_path):
    hubert.save_pretrained(tmp_path)
    spec, params = pretrained.load(str(tmp_path))
    wave = np.random.default_rng(0).normal(size=(2, 4321)).astype(np.float32)
    with torch.no_grad():
        theirs = hubert(torch.from_numpy(wave), output_hidden_states=True)
    ours = Hubert(spec).apply({"params": params}, wave, jnp.array([4321, 4321]))
    assert_equal_layers(ours.states, theirs.hidden_states)
    np.testing.assert_allclose(ours.tokens, theirs.last_hidden_state.numpy(), atol=ATOL)
    assert ours.mask.all()


def test_clip_equals_transformers_layer_by_layer(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    spec, params = pretrained.load(str(tmp_path))
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        theirs = clip(torch.from_numpy(pixels), output_hidden_states=True)
    ours = Vit(spec).apply({"params": params}, pixels.transpose(0, 2, 3, 1))
    assert_equal_layers(ours.states, theirs.hidden_states)
    np.testing.assert_allclose(ours.tokens, theirs.last_hidden_state.numpy(), atol=ATOL)
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=ATOL)


def test_saved_hubert_is_read_by_transformers(hubert, tmp_path):
    hubert.save_pretrained(tmp_path / "theirs")
    spec, params = pretrained.load(str(tmp_path / "theirs"))
    pretrained.save(tmp_path / "ours", spec, params)
    again = transformers.HubertModel.from_pretrained(tmp_path / "ours").eval()
    for name, tensor in hubert.state_dict().items():
        if name != "masked_spec_embed":  # dropped on purpose: only masked pre-training reads it
            np.testing.assert_array_equal(again.state_dict()[name], tensor, err_msg=name)


def test_saved_clip_is_read_by_transformers(clip, tmp_path):
    clip.save_pretrained(tmp_path / "theirs")
    spec, params = pretrained.load(str(tmp_path / "theirs"))
    pretrained.save(tmp_path / "ours", spec, params)
    again = transformers.CLIPVisionModel.from_pretrained(tmp_path / "ours").eval()
    for name, tensor in clip.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], tensor, err_msg=name)


def test_half_precision_file_loads_as_float32(clip, tmp_path):
    clip.save_pretrained(tmp_path / "theirs")
    spec, params = pretrained.load(str(tmp_path / "theirs"))
    pretrained.save(tmp_path / "half", spec, params, dtype=np.float16)
    _, half = pretrained.load(str(tmp_path / "half"))
    assert half["cls"].dtype == np.float32
    np.testing.assert_allclose(half["cls"], params["cls"], rtol=1e-3)
