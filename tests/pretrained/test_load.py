"""Every spelling loads alike; damaged and foreign checkpoints are refused by name."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file, save_file

from sir_jax import pretrained
from sir_jax.errors import UserError
from sir_jax.models import HubertSpec, VitSpec, build_encoder
from sir_jax.pretrained.families import clip as clip_family
from sir_jax.pretrained.families import hubert as hubert_family
from sir_jax.pretrained.load import FAMILIES

NAME = "encoder.layers.1.attention.k_proj.weight"
TEXT = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=50,
    max_position_embeddings=16,
)


@pytest.fixture
def folder(hubert, tmp_path):
    hubert.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def clip_folder(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    tensors = change(tensors) or tensors
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def rename(*pairs, prefix=""):
    def change(tensors):
        for name in list(tensors):
            new = name
            for old, young in pairs:
                new = new.replace(old, young)
            tensors[prefix + new] = tensors.pop(name)

    return change


def assert_same(ours, expected):
    ours, expected = flatten_dict(ours, sep="/"), flatten_dict(expected, sep="/")
    assert sorted(ours) == sorted(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_missing_tensor_is_named_as_the_checkpoint_has_it(folder):
    rewrite(folder, lambda t: {k: v for k, v in t.items() if k != NAME})
    message = rf"tensor {NAME} is missing \(leaf layers_01/attention/key/kernel\)"
    with pytest.raises(UserError, match=message):
        pretrained.load(str(folder))


def test_extra_and_misshapen_tensors_are_named_together(folder):
    rewrite(folder, lambda t: t.update({NAME: torch.zeros(3, 32), "encoder.x": torch.zeros(1)}))
    with pytest.raises(UserError) as caught:
        pretrained.load(str(folder))
    assert f"tensor {NAME} has shape (3, 32), not (32, 32)" in str(caught.value)
    assert "tensor encoder.x is unknown" in str(caught.value)


def test_shapes_are_checked_before_anything_is_read(folder):
    # Of integers, which cannot be read: the shape is what is told.
    rewrite(folder, lambda t: t.update({NAME: torch.zeros(3, 32, dtype=torch.int32)}))
    with pytest.raises(UserError, match="has shape"):
        pretrained.load(str(folder))
    rewrite(folder, lambda t: t.update({NAME: torch.zeros(32, 32, dtype=torch.int32)}))
    with pytest.raises(UserError, match=f"tensor {NAME} of .* is I32"):
        pretrained.load(str(folder))


def test_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors is truncated: .*; cut off are "):
        pretrained.load(str(folder))


@pytest.mark.parametrize("kind", ["whisper", "llama"])
def test_foreign_family_is_refused_by_name(folder, kind):
    change_config(folder, model_type=kind)
    known = ", ".join(FAMILIES)
    with pytest.raises(UserError, match=f"is a '{kind}' checkpoint; known are {known}"):
        pretrained.load(str(folder))


def test_clips_text_encoder_is_refused(clip_folder):
    change_config(clip_folder, model_type="clip_text_model")
    with pytest.raises(UserError, match="is CLIP's text encoder alone"):
        pretrained.load(str(clip_folder))
    change_config(clip_folder, model_type="clip", architectures=["CLIPTextModelWithProjection"])
    with pytest.raises(UserError, match="CLIP's text encoder alone"):
        pretrained.load(str(clip_folder))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "config.json has no model_type; known are hubert"),
        ("[]", "config.json holds no dict"),
        ("{", "config.json cannot be read"),
        ('{"model_type": "hubert", "conv_dim": [8]}', "give.* no encoder: conv_width"),
        ('{"model_type": "hubert", "feat_proj_layer_norm": false}', "feat_proj_layer_norm=False"),
        ('{"model_type": "hubert", "hidden_act": "mish"}', "the activation 'mish'; ported are"),
        ('{"model_type": "clip_vision_model", "num_channels": 1}', "num_channels=1"),
    ],
)
def test_config_that_gives_no_encoder_is_refused(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        pretrained.load(str(folder))


def test_checkpoint_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors; get the whole checkpoint"):
        pretrained.load(str(folder))


def test_pickle_alone_is_refused_with_the_command_that_converts_it(hubert, tmp_path):
    folder = tmp_path / "my model"
    hubert.save_pretrained(folder)
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        next(folder.glob("*model.*")).rename(folder / name)
        with pytest.raises(UserError) as caught:
            pretrained.load(str(folder))
        assert str(caught.value) == (
            f"{folder} has {name} and no model.safetensors; make that with: sir-jax convert "
            f"--source '{folder}' --out 'my model-safetensors'"
        )


def test_spellings_of_hubert_load_alike(folder):
    _, expected = pretrained.load(str(folder))
    old = (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    )
    for change in (rename(*old), rename(prefix="hubert.")):
        rewrite(folder, change)
        assert "masked_spec_embed" not in str(flatten_dict(expected))
        assert_same(pretrained.load(str(folder))[1], expected)


def test_spellings_of_clip_load_alike(clip_folder):
    _, expected = pretrained.load(str(clip_folder))
    for change in (rename(prefix="vision_model."), rename(("vision_model.", ""))):
        rewrite(clip_folder, change)
        assert_same(pretrained.load(str(clip_folder))[1], expected)
    ids = {"embeddings.position_ids": torch.arange(17)[None]}
    rewrite(clip_folder, lambda t: t.update(ids))
    assert_same(pretrained.load(str(clip_folder))[1], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_files_load_as_their_values_in_float32(folder, dtype):
    _, whole = pretrained.load(str(folder))
    rewrite(folder, lambda t: {k: v.to(dtype) for k, v in t.items()})
    kind = {torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}[dtype]
    _, half = pretrained.load(str(folder))
    halved = {k: v.astype(kind).astype(np.float32) for k, v in flatten_dict(whole).items()}
    for path, value in flatten_dict(half).items():
        assert value.dtype == np.float32 and value.flags.c_contiguous
        np.testing.assert_array_equal(value, halved[path], err_msg=str(path))


def test_shards_load_as_the_single_file_does(hubert, tmp_path):
    hubert.save_pretrained(tmp_path / "one")
    hubert.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    shards = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 2
    _, expected = pretrained.load(str(tmp_path / "one"))
    assert_same(pretrained.load(str(tmp_path / "many"))[1], expected)
    (tmp_path / "many" / shards[1]).unlink()
    with pytest.raises(UserError, match=f"lacks {shards[1]}, listed in model.safetensors.index"):
        pretrained.load(str(tmp_path / "many"))


def head_of(name, encoder):
    """Return a larger `transformers` class around this encoder."""
    config = encoder.config
    if name.startswith("Hubert"):
        config.use_weighted_layer_sum = name == "HubertForSequenceClassification"
        model = getattr(transformers, name)(config)
        model.hubert.load_state_dict(encoder.state_dict())
        return model
    if name == "CLIPModel":
        config = transformers.CLIPConfig(vision_config=config.to_dict(), text_config=TEXT)
    model = getattr(transformers, name)(config)
    theirs = model.vision_model.state_dict()
    given = {k.removeprefix("vision_model."): v for k, v in encoder.state_dict().items()}
    assert sorted(k.removeprefix("vision_model.") for k in theirs) == sorted(given)
    model.vision_model.load_state_dict(
        dict(zip(sorted(theirs), (given[k] for k in sorted(given)), strict=True))
    )
    return model


@pytest.mark.parametrize("name", ["HubertForCTC", "HubertForSequenceClassification"])
def test_heads_of_hubert_are_left_out(hubert, tmp_path, name):
    hubert.save_pretrained(tmp_path / "alone")
    head_of(name, hubert).save_pretrained(tmp_path / "whole")
    names = load_file(tmp_path / "whole" / "model.safetensors")
    assert {"lm_head.weight", "layer_weights"} & set(names)
    spec, expected = pretrained.load(str(tmp_path / "alone"))
    got_spec, got = pretrained.load(str(tmp_path / "whole"))
    assert got_spec == spec
    assert_same(got, expected)


@pytest.mark.parametrize("name", ["CLIPModel", "CLIPVisionModelWithProjection"])
def test_text_tower_and_projections_of_clip_are_left_out(clip, tmp_path, name):
    clip.save_pretrained(tmp_path / "alone")
    head_of(name, clip).save_pretrained(tmp_path / "whole")
    names = load_file(tmp_path / "whole" / "model.safetensors")
    assert "visual_projection.weight" in names
    spec, expected = pretrained.load(str(tmp_path / "alone"))
    got_spec, got = pretrained.load(str(tmp_path / "whole"))
    assert got_spec == spec
    assert_same(got, expected)


def test_unknown_tensor_beside_a_head_is_still_refused(clip, tmp_path):
    head_of("CLIPModel", clip).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"vision_model.adapter.weight": torch.zeros(1)}))
    with pytest.raises(UserError, match="tensor vision_model.adapter.weight is unknown"):
        pretrained.load(str(tmp_path))


def test_silent_config_means_the_defaults_of_transformers():
    read = hubert_family.spec_from_config
    assert read({}) == read(transformers.HubertConfig().to_dict()) == HubertSpec()
    read = clip_family.spec_from_config
    assert read({}) == read(transformers.CLIPVisionConfig().to_dict()) == VitSpec()
    old = dict(vision_config=dict(patch_size=32), vision_config_dict=dict(patch_size=16))
    assert read(old) == VitSpec(patch=16)


def test_build_encoder_takes_the_parameters_of_each_kind(folder, make_blip2, tmp_path_factory):
    def shapes(path, dtype, *args):
        spec, params = pretrained.load(path)
        return jax.eval_shape(build_encoder(spec, dtype).apply, {"params": params}, *args)

    wave, lengths = np.zeros((1, 800), np.float32), np.array([800])
    assert shapes(folder, jnp.float32, wave, lengths).tokens.dtype == jnp.float32
    tokens = shapes(folder, jnp.bfloat16, wave, lengths).tokens
    assert tokens.shape == (1, 2, 32) and tokens.dtype == jnp.bfloat16
    path = tmp_path_factory.mktemp("blip2")
    make_blip2("Blip2Model").save_pretrained(path)
    vision, qformer = shapes(path, jnp.bfloat16, np.zeros((1, 32, 32, 3), np.float32))
    assert vision.tokens.shape == (1, 17, 32) and qformer.tokens.shape == (1, 5, 24)


def test_loading_starts_no_backend(folder):
    # A program may still have to choose its devices, or to join others.
    code = (
        "import sys, jax\nfrom sir_jax import pretrained\n"
        "pretrained.load(sys.argv[1])\nprint(jax._src.xla_bridge.backends_are_initialized())"
    )
    args = [sys.executable, "-c", code, str(folder)]
    out = subprocess.run(args, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_image_size_that_no_patch_divides_is_refused(clip_folder):
    with pytest.raises(UserError, match="image_size=36 is no multiple of .* patch of 8"):
        pretrained.load(str(clip_folder), image_size=36)


def test_speech_encoder_has_no_image_size(folder):
    with pytest.raises(UserError, match="is a speech encoder; it has no image_size"):
        pretrained.load(str(folder), image_size=64)


def test_saving_other_leaves_than_the_encoders_is_an_error(folder, tmp_path):
    spec, params = pretrained.load(str(folder))
    with pytest.raises(ValueError, match="head/kernel"):
        pretrained.save(tmp_path / "x", spec, params | {"head": {"kernel": np.zeros(1)}})
    params.pop("norm")
    with pytest.raises(ValueError, match=r"\['norm/bias', 'norm/scale'\]"):
        pretrained.save(tmp_path / "x", spec, params)
