"""A BERT's last layers as the start of the fusion encoder: by values, and every refusal."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from sir_jax import pretrained
from sir_jax.config.presets import base_config, shrink
from sir_jax.errors import UserError
from sir_jax.models import FusionSpec, build_model, init_params
from sir_jax.models.layers import CrossBlock
from sir_jax.pretrained.families import bert
from sir_jax.pretrained.load import FAMILIES
from sir_jax.runtime import sharding
from sir_jax.training.setup import Setup
from sir_jax.training.state import TrainState

ATOL = 2e-5
LAYERS = 5
CLASSES = [
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMultipleChoice",
]
# What a BERT has: the leaf's path inside a layer of ours, the module's inside a layer of theirs.
DENSE = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
}
NORMS = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
QUERY = "encoder.layer.{}.attention.self.query.weight"


def tiny_bert(architecture="BertModel", **changes):
    """Return a BERT of width 32 with every parameter moved, its norms' too."""
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=50,
        max_position_embeddings=16,
        **changes,
    )
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model.eval()


def tiny_config(folder, layers=2):
    """Return a config of the joint model at width 32 that starts from a BERT."""
    c = base_config("tiny", "tiny")
    c.data.image_size = 16
    c.model.speech.update(
        width=32,
        layers=1,
        heads=2,
        mlp_width=64,
        conv_width=(8, 32),
        conv_kernel=(40, 8),
        conv_stride=(20, 8),
        pos_kernel=8,
        pos_groups=2,
    )
    c.model.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.model.head.update(layers=1, heads=2, mlp_width=64)
    c.model.fusion.update(layers=layers, width=32, heads=4, mlp_width=48)
    c.model.embed_width = 16
    c.loss.sim.weight = 1.0
    c.init.fusion = str(folder)
    return c


@functools.cache
def joint_params(layers=2):
    """Return parameters of the joint model's shapes, every one random."""
    model = build_model(tiny_config("", layers).model, ("match",))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def layer_leaves(model, number):
    """Return what one layer of a BERT holds, by path inside a layer of ours."""
    layer = getattr(model, "bert", model).encoder.layer[number]
    leaves = {}
    for path, name in DENSE.items():
        leaves[f"{path}/kernel"] = layer.get_submodule(name).weight.T
        leaves[f"{path}/bias"] = layer.get_submodule(name).bias
    for path, name in NORMS.items():
        leaves[f"{path}/scale"] = layer.get_submodule(name).weight
        leaves[f"{path}/bias"] = layer.get_submodule(name).bias
    return {path: value.detach().numpy() for path, value in leaves.items()}


def assert_filled(params, model, layers, before):
    """Hold the last layers against PyTorch's, and every other leaf against what it was."""
    ours, before = flatten_dict(params, sep="/"), flatten_dict(before, sep="/")
    assert sorted(ours) == sorted(before)
    expected = dict(before)
    for i in range(layers):
        for path, value in layer_leaves(model, LAYERS - layers + i).items():
            expected[f"fusion/layers_{i:02d}/{path}"] = value
    assert sum((ours[path] != before[path]).any() for path in ours) == 16 * layers
    for path, value in expected.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def refusal(cfg, params=None):
    """Return the message with which a config is refused, the folder taken out."""
    with pytest.raises(UserError) as caught:
        pretrained.load_encoders(cfg, joint_params() if params is None else params)
    (path,) = filter(None, cfg.init.to_dict().values())
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(path, "BERT")


@pytest.fixture
def saved(tmp_path):
    """Return the folder of a tiny BertModel."""
    tiny_bert().save_pretrained(tmp_path)
    return tmp_path


def test_last_layers_equal_transformers(tmp_path):
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    cfg = tiny_config(tmp_path, layers=3)
    spec = FusionSpec(**cfg.model.fusion)
    params = pretrained.load_encoders(cfg, joint_params(3))["fusion"]
    mask = np.arange(9) < np.array([9, 5, 1])[:, None]
    words = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (3, 9)))
    with torch.no_grad():
        theirs = model(
            words, attention_mask=torch.from_numpy(mask.astype(int)), output_hidden_states=True
        ).hidden_states
    assert len(theirs) == 1 + LAYERS
    block = CrossBlock(
        spec.width, spec.heads, spec.mlp_width, spec.activation, spec.epsilon, cross=False
    )
    apply = jax.jit(lambda p, x: block.apply({"params": p}, x, mask, None, None, True))
    x = theirs[LAYERS - 3].numpy()
    for i in range(3):
        x = apply(params[f"layers_{i:02d}"], x)
        expected = theirs[LAYERS - 2 + i].numpy()
        np.testing.assert_allclose(x, expected, atol=ATOL, err_msg=f"layer {i}")


@pytest.mark.parametrize("layers", [1, 2, LAYERS])
def test_the_last_layers_are_filled_and_the_rest_stays(saved, layers):
    cfg = tiny_config(saved, layers)
    before = joint_params(layers)
    copy = jax.tree.map(np.copy, before)
    after = pretrained.load_encoders(cfg, before)
    assert_filled(after, tiny_bert(), layers, before)
    jax.tree.map(np.testing.assert_array_equal, before, copy)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(after))


@pytest.mark.parametrize("architecture", CLASSES)
def test_every_class_is_read_and_its_head_dropped(architecture, tmp_path):
    model = tiny_bert(architecture)
    model.save_pretrained(tmp_path)
    cfg = tiny_config(tmp_path)
    before = joint_params()
    assert_filled(pretrained.load_encoders(cfg, before), model, 2, before)


def test_old_names_of_the_norms_are_read(tmp_path):
    model = tiny_bert("BertForMaskedLM")
    model.save_pretrained(tmp_path)

    def rename(tensors):
        names = [name for name in tensors if "LayerNorm" in name]
        assert len(names) == 2 * (2 * LAYERS + 2)
        for name in names:
            old = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[old] = tensors.pop(name)

    rewrite(tmp_path, rename)
    cfg = tiny_config(tmp_path)
    before = joint_params()
    assert_filled(pretrained.load_encoders(cfg, before), model, 2, before)
    name = "bert.encoder.layer.4.output.LayerNorm.weight"
    rewrite(tmp_path, lambda t: t.update({name: np.zeros(32, np.float32)}))
    message = f"tensor {name} gives leaf layers_04/mlp_norm/scale a second time"
    assert message in refusal(cfg)


def test_every_tensor_is_read_or_dropped_once():
    model = tiny_bert("BertForPreTraining")
    tensors = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    block = {path: value.shape for path, value in layer_leaves(model, 0).items()}
    plan = bert.plan_last_layers(tensors, LAYERS, 2, block, "BERT")
    dropped = [name for names in plan.dropped.values() for name in names]
    assert sorted([*plan.reads, *dropped]) == sorted(tensors)
    read = {f"bert.encoder.layer.{n}." for n in (3, 4)}
    assert {re.match(r"bert\.encoder\.layer\.\d+\.", name)[0] for name in plan.reads} == read
    paths = [path for _, (path,) in plan.reads.values()]
    assert sorted(paths) == sorted(f"layers_{n:02d}/{leaf}" for n in (0, 1) for leaf in block)


@pytest.mark.parametrize("number", [0, 4])
def test_tensors_that_do_not_fit_are_named_in_every_layer(saved, number):
    cfg, name = tiny_config(saved), QUERY.format(number)
    leaf = f"layers_{number:02d}/attention/query/kernel"
    head = "init.fusion=BERT does not fit its config: "
    rewrite(saved, lambda t: t.update({name: np.zeros((32, 31), np.float32)}))
    assert refusal(cfg) == f"{head}tensor {name} has shape (32, 31), not (32, 32)"
    rewrite(saved, lambda t: t.pop(name))
    assert refusal(cfg) == f"{head}tensor {name} is missing (leaf {leaf})"


def test_unknown_tensors_are_named(saved):
    for name in ("encoder.layer.0.crossattention.self.query.bias", "lm_head.bias"):
        rewrite(saved, lambda t, name=name: t.update({name: np.zeros(32, np.float32)}))
        assert f"tensor {name} is unknown" in refusal(tiny_config(saved))
    rewrite(saved, lambda t: t.update({QUERY.format(LAYERS): np.zeros((32, 32), np.float32)}))
    message = f"tensor {QUERY.format(LAYERS)} has no leaf layers_05/attention/query/kernel in this"
    assert message in refusal(tiny_config(saved))


@pytest.mark.parametrize(
    "fields, there",
    [
        (dict(width=64), "width (32 there)"),
        (dict(heads=2), "heads (4 there)"),
        (dict(mlp_width=64), "mlp_width (48 there)"),
        (dict(activation="relu"), "activation (gelu there)"),
        (dict(epsilon=1e-5), "epsilon (1e-12 there)"),
        (dict(layers=LAYERS + 1), "layers (5 there)"),
        (dict(layers=7, heads=8), "layers (5 there), model.fusion.heads (4 there)"),
    ],
)
def test_another_shape_than_the_config_is_refused_by_field(saved, fields, there):
    cfg = tiny_config(saved)
    cfg.model.fusion.update(fields)
    assert refusal(cfg) == f"init.fusion=BERT differs from the config: model.fusion.{there}"


def test_dropout_query_and_more_layers_may_differ(saved):
    cfg = tiny_config(saved)
    cfg.model.fusion.update(dropout=0.77, query="image")
    before = joint_params()
    assert_filled(pretrained.load_encoders(cfg, before), tiny_bert(), 2, before)


def test_a_fusion_encoder_without_self_attention_is_refused(saved):
    cfg = tiny_config(saved)
    cfg.model.fusion.self_attention = False
    assert refusal(cfg) == (
        "init.fusion=BERT has nothing to fill: model.fusion.self_attention is False; set it to "
        "True, or init.fusion=''"
    )


def test_a_model_without_a_fusion_encoder_is_refused(saved):
    assert refusal(tiny_config(saved), {"speech": "kept"}) == (
        "init.fusion=BERT has nothing to fill: without loss.sim.weight and loss.cmd.weight there "
        "is no fusion encoder; set one of them, or init.fusion=''"
    )


@pytest.mark.parametrize("tower", ["speech", "image"])
def test_a_bert_is_no_encoder(saved, tower):
    cfg = tiny_config(saved)
    cfg.init.update({"fusion": "", tower: str(saved)})
    assert refusal(cfg) == f"BERT is a 'bert' checkpoint; known are {', '.join(FAMILIES)}"


def test_encoders_are_no_bert(hubert, clip, saved, tmp_path):
    for model, kind in ((hubert, "hubert"), (clip, "clip_vision_model")):
        model.save_pretrained(tmp_path / kind)
        message = refusal(tiny_config(tmp_path / kind))
        assert message == f"init.fusion=BERT is a {kind!r} checkpoint; known are bert"


def test_a_pickle_is_refused_by_a_remedy_that_works(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    assert refusal(tiny_config(saved)) == (
        "init.fusion=BERT has pytorch_model.bin and no model.safetensors; load it with "
        "transformers and save it again"
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(is_decoder=True), "config.json has is_decoder=True; only False is ported"),
        (
            dict(position_embedding_type="relative_key"),
            "config.json has position_embedding_type=relative_key; only absolute is ported",
        ),
        (
            dict(hidden_act="mish"),
            "config.json has the activation 'mish'; ported are gelu, gelu_tanh, quick_gelu, relu",
        ),
    ],
)
def test_unported_configs_are_refused(saved, fields, message):
    change_config(saved, **fields)
    assert refusal(tiny_config(saved)) == f"init.fusion=BERT: {message}"


def test_a_silent_config_means_the_defaults_of_transformers():
    silent = bert.spec_from_config({})
    assert silent == bert.spec_from_config(transformers.BertConfig().to_dict())
    # BERT-base is what the fusion encoder's defaults are half of.
    ours = FusionSpec()
    assert silent == bert.BertSpec(
        2 * ours.layers, ours.width, ours.heads, ours.mlp_width, ours.activation, ours.epsilon
    )


def test_a_training_starts_from_it(saved):
    cfg = tiny_config(saved)
    before = joint_params()

    def init(key):
        del key  # these random values serve as well, and are known
        params = jax.tree.map(jnp.asarray, before)
        return TrainState(jnp.zeros((), jnp.int32), params, None, (), None)

    mesh = sharding.make_mesh(dict(data=1, fsdp=2, tensor=1), jax.devices()[:2])
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings = sharding.tree_shardings(abstract, mesh)
    setup = Setup(cfg, mesh, None, None, init, abstract, shardings)
    params = setup.create_state().params
    assert_filled(jax.tree.map(np.asarray, params), tiny_bert(), 2, before)
    assert jax.tree.map(lambda x: x.sharding, params) == shardings.params


def test_a_shrunk_config_starts_from_nothing():
    cfg = base_config("tiny", "tiny")
    assert cfg.init.fusion == ""
    cfg.init.fusion = "google-bert/bert-base-uncased"
    cfg.init.model = "spoken-scenes"
    assert shrink(cfg).init.to_dict() == dict(speech="", image="", fusion="", model="")
