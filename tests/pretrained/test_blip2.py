"""BLIP-2's image side equals `transformers` layer by layer, through files on disk and back."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from sir_jax import pretrained
from sir_jax.config.specs import VIT_VARIANTS, Blip2Spec, QFormerSpec, VitSpec
from sir_jax.errors import UserError
from sir_jax.models.qformer import Blip2
from sir_jax.models.vit import Vit
from sir_jax.pretrained.families import blip2, blip2_vision

ATOL = 2e-5
RETRIEVAL, PROJECTION = "Blip2ForImageTextRetrieval", "Blip2VisionModelWithProjection"
CLASSES = ["Blip2ForConditionalGeneration", RETRIEVAL, "Blip2Model", PROJECTION]
QKV = "encoder.layers.1.self_attn.qkv.weight"


def pixels():
    return np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def run(module, params):
    apply = jax.jit(lambda p: module.apply({"params": p}, pixels().transpose(0, 2, 3, 1)))
    return apply(params)


def assert_equal_layers(ours, theirs):
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(a, b.numpy(), atol=ATOL, err_msg=f"hidden state {i}")


def assert_equal_trees(ours, expected):
    ours, expected = flatten_dict(ours, sep="/"), flatten_dict(expected, sep="/")
    assert sorted(ours) == sorted(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_vision_equals_transformers_layer_by_layer(blip2_vision, tmp_path):
    blip2_vision.save_pretrained(tmp_path)
    spec, params = pretrained.load(str(tmp_path))
    with torch.no_grad():
        theirs = blip2_vision(torch.from_numpy(pixels()), output_hidden_states=True)
    ours = run(Vit(spec), params)
    assert_equal_layers(ours.states, theirs.hidden_states)
    np.testing.assert_allclose(ours.tokens, theirs.last_hidden_state.numpy(), atol=ATOL)
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=ATOL)


def run_theirs(model):
    """Return PyTorch's outputs of the image encoder and of the Q-Former without text."""
    with torch.no_grad():
        vision = model.vision_model(torch.from_numpy(pixels()), output_hidden_states=True)
        qformer = model.qformer(
            query_embeds=model.query_tokens.expand(2, -1, -1),
            encoder_hidden_states=vision.last_hidden_state,
            output_hidden_states=True,
        )
    return vision, qformer


@pytest.mark.parametrize("architecture", CLASSES)
def test_every_class_equals_transformers_layer_by_layer(make_blip2, architecture, tmp_path):
    model = make_blip2(architecture)
    model.save_pretrained(tmp_path)
    spec, params = pretrained.load(str(tmp_path))
    theirs_vision, theirs = run_theirs(model)
    vision, ours = run(Blip2(spec), params)
    assert_equal_layers(vision.states, theirs_vision.hidden_states)
    assert_equal_layers(ours.states, theirs.hidden_states)
    np.testing.assert_allclose(ours.tokens, theirs.last_hidden_state.numpy(), atol=ATOL)
    if architecture not in (RETRIEVAL, PROJECTION):
        assert spec.qformer.projection == 0
        assert ours.projected is None
        return
    with torch.no_grad():
        expected = model.vision_projection(theirs.last_hidden_state).numpy()
    np.testing.assert_allclose(ours.projected, expected, atol=ATOL)
    if architecture == PROJECTION:
        with torch.no_grad():
            expected = model(torch.from_numpy(pixels())).image_embeds.numpy()
        unit = ours.projected / np.linalg.norm(ours.projected, axis=-1, keepdims=True)
        np.testing.assert_allclose(unit, expected, atol=ATOL)


def test_another_cross_attention_frequency(make_blip2, tmp_path):
    model = make_blip2(PROJECTION, dict(cross_attention_frequency=3))
    model.save_pretrained(tmp_path)
    spec, params = pretrained.load(str(tmp_path))
    _, ours = run(Blip2(spec), params)
    assert_equal_layers(ours.states, run_theirs(model)[1].hidden_states)


def test_fused_bias_gives_query_key_and_value(blip2_vision, tmp_path):
    # A key's bias adds the same to all logits of a query: no output shows that it is right.
    blip2_vision.save_pretrained(tmp_path)
    _, params = pretrained.load(str(tmp_path))
    fused = blip2_vision.encoder.layers[1].self_attn.qkv.bias.detach().numpy()
    assert np.abs(fused[32:64]).min() > 0
    for i, name in enumerate(("query", "key", "value")):
        bias = params["layers_01"]["attention"][name]["bias"]
        np.testing.assert_array_equal(bias, fused[32 * i : 32 * (i + 1)], err_msg=name)


def test_prefix_of_a_larger_model_changes_nothing(blip2_vision, tmp_path):
    blip2_vision.save_pretrained(tmp_path)
    _, expected = pretrained.load(str(tmp_path))
    rewrite(tmp_path, lambda t: [t.update({f"vision_model.{k}": t.pop(k)}) for k in list(t)])
    assert_equal_trees(pretrained.load(str(tmp_path))[1], expected)


def test_base_prefix_changes_nothing(make_blip2, tmp_path):
    make_blip2(RETRIEVAL).save_pretrained(tmp_path)
    _, expected = pretrained.load(str(tmp_path))
    rewrite(tmp_path, lambda t: [t.update({f"blip.{k}": t.pop(k)}) for k in list(t)])
    assert_equal_trees(pretrained.load(str(tmp_path))[1], expected)


def test_text_parts_are_dropped_and_only_they(make_blip2, tmp_path):
    make_blip2(RETRIEVAL).save_pretrained(tmp_path)
    spec, expected = pretrained.load(str(tmp_path))
    text = ("embeddings.", "text_projection.", "itm_head.")
    branches = (".intermediate.dense.", ".output.dense.", ".output.LayerNorm.")

    def is_text(name):
        inside = name.startswith("qformer.encoder.layer.") and "attention." not in name
        return name.startswith(text) or (inside and any(x in name for x in branches))

    def drop(tensors):
        names = [name for name in tensors if is_text(name)]
        assert len(names) == 2 + 2 + 2 + 4 * 6
        for name in names:
            del tensors[name]

    rewrite(tmp_path, drop)
    got_spec, got = pretrained.load(str(tmp_path))
    assert got_spec == spec
    assert_equal_trees(got, expected)
    rewrite(tmp_path, lambda t: t.update(temp=np.zeros((), np.float32)))  # of LAVIS's own files
    assert_equal_trees(pretrained.load(str(tmp_path))[1], expected)
    rewrite(tmp_path, lambda t: t.update({"qformer.embeddings.extra": np.zeros(1, np.float32)}))
    with pytest.raises(UserError, match="qformer.embeddings.extra is unknown"):
        pretrained.load(str(tmp_path))


def test_missing_and_misshapen_fused_tensors_are_named(blip2_vision, tmp_path):
    blip2_vision.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.pop(QKV))
    with pytest.raises(UserError, match=QKV):
        pretrained.load(str(tmp_path))
    rewrite(tmp_path, lambda t: t.update({QKV: np.zeros((96, 31), np.float32)}))
    with pytest.raises(UserError, match=QKV):
        pretrained.load(str(tmp_path))


def test_missing_fused_tensor_of_the_whole_model_is_named(make_blip2, tmp_path):
    make_blip2(PROJECTION).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.pop(f"vision_model.{QKV}"))
    with pytest.raises(UserError, match=f"vision_model.{QKV}"):
        pretrained.load(str(tmp_path))


def test_projection_that_the_class_has_not_is_an_error(make_blip2, tmp_path):
    make_blip2(PROJECTION).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Blip2Model"]}))
    with pytest.raises(UserError, match="vision_projection.weight"):
        pretrained.load(str(tmp_path))


def assert_same_state(again, expected, names):
    theirs, wanted = again.state_dict(), expected.state_dict()
    assert names
    for name in names:
        np.testing.assert_array_equal(theirs[name], wanted[name], err_msg=name)


def test_saved_vision_is_read_by_transformers(blip2_vision, tmp_path):
    blip2_vision.save_pretrained(tmp_path / "theirs")
    spec, params = pretrained.load(str(tmp_path / "theirs"))
    pretrained.save(tmp_path / "ours", spec, params)
    again = transformers.Blip2VisionModel.from_pretrained(tmp_path / "ours")
    assert_same_state(again, blip2_vision, blip2_vision.state_dict())


def test_saved_image_side_is_read_by_transformers(make_blip2, tmp_path):
    model = make_blip2(PROJECTION, dict(use_qformer_text_input=False))
    model.save_pretrained(tmp_path / "theirs")
    spec, params = pretrained.load(str(tmp_path / "theirs"))
    pretrained.save(tmp_path / "ours", spec, params)
    assert pretrained.load(str(tmp_path / "ours"))[0] == spec
    again = transformers.Blip2VisionModelWithProjection.from_pretrained(tmp_path / "ours")
    assert sorted(again.state_dict()) == sorted(model.state_dict())
    assert_same_state(again, model, model.state_dict())


def test_saved_image_side_without_projection_is_read_by_both(make_blip2, tmp_path):
    model = make_blip2("Blip2Model")
    model.save_pretrained(tmp_path / "theirs")
    spec, params = pretrained.load(str(tmp_path / "theirs"))
    pretrained.save(tmp_path / "ours", spec, params)
    got_spec, got = pretrained.load(str(tmp_path / "ours"))
    assert got_spec == spec
    assert_equal_trees(got, params)
    # Not Blip2Model itself: it would make a language model of its default size.
    again = transformers.Blip2VisionModelWithProjection.from_pretrained(tmp_path / "ours")
    names = [name for name in again.state_dict() if not name.startswith("vision_projection.")]
    assert_same_state(again, model, names)


def test_a_silent_config_means_the_defaults_of_transformers():
    silent = blip2.spec_from_config(dict(architectures=[RETRIEVAL]))
    theirs = transformers.Blip2Config().to_dict()
    assert silent == blip2.spec_from_config(theirs | dict(architectures=[RETRIEVAL]))
    assert silent == Blip2Spec(VitSpec(**VIT_VARIANTS["g/14"]), QFormerSpec())
    assert silent.vision == blip2_vision.spec_from_config({})
    sparse = dict(vision_config=dict(layer_norm_eps=1e-5), qformer_config=dict(hidden_size=384))
    spec = blip2.spec_from_config(dict(architectures=["Blip2Model"], num_query_tokens=8) | sparse)
    assert (spec.vision.epsilon, spec.qformer.width, spec.qformer.queries) == (1e-5, 384, 8)


def test_released_size_has_the_parameters_of_transformers():
    spec = Blip2Spec(VitSpec(**VIT_VARIANTS["g/14"]), QFormerSpec())
    shapes = jax.eval_shape(
        Blip2(spec).init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32)
    )
    with torch.device("meta"):
        model = transformers.Blip2VisionModelWithProjection(transformers.Blip2Config())
    expected = sum(p.numel() for p in model.parameters())
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(architectures=["Blip2TextModelWithProjection"]), "name one of"),
        (dict(architectures=None), "name one of"),
        (dict(vision_config=dict(qkv_bias=False)), "qkv_bias=false"),
        (dict(vision_config=dict(image_size=[224, 196])), r"image_size=\[224, 196\]"),
        (dict(vision_config=dict(hidden_act="mish")), "hidden_act='mish'"),
        (dict(qformer_config=dict(hidden_act="mish")), "hidden_act='mish'"),
    ],
)
def test_unported_configs_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        blip2.spec_from_config(dict(architectures=[RETRIEVAL]) | change)


def test_preprocessing_is_read_as_transformers_writes_it():
    theirs = transformers.BlipImageProcessorPil().to_dict()
    expected = dict(
        image_size=384,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
        image_fit="squash",
    )
    assert blip2.preprocessing({}) == expected
    assert blip2.preprocessing(theirs | dict(image_processor_type="BlipImageProcessor")) == expected
    for size in (224, dict(height=224, width=224)):
        assert blip2_vision.preprocessing(theirs | dict(size=size))["image_size"] == 224


@pytest.mark.parametrize(
    "change",
    [
        dict(image_processor_type="CLIPImageProcessor"),
        dict(do_resize=False),
        dict(do_center_crop=True),
        dict(do_normalize=None),
        dict(do_rescale=False),
        dict(resample=2),
        dict(rescale_factor=1.0),
        dict(size=dict(height=224, width=196)),
        dict(size=dict(shortest_edge=224)),
    ],
)
def test_unported_preprocessing_is_refused_by_field(change):
    with pytest.raises(UserError, match=f"has {next(iter(change))}="):
        blip2.preprocessing(change)
