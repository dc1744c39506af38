import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from tiny_models import tiny_config
from training_helpers import synthetic_batch

from sir_jax.errors import UserError
from sir_jax.models import build_model, init_params
from sir_jax.runtime import sharding
from sir_jax.runtime.trees import leaf_paths


def mesh_of(data, fsdp, tensor):
    return sharding.make_mesh(ConfigDict(dict(data=data, fsdp=fsdp, tensor=tensor)))


@pytest.fixture(scope="module")
def abstract_params():
    model = build_model(tiny_config().model)
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


# The layout of every parameter of two or more axes. Changing a rule must show here.
SNAPSHOT = {
    "image/layers_00/attention/key/kernel": P("fsdp", "tensor"),
    "image/layers_00/attention/out/kernel": P("tensor", "fsdp"),
    "image/layers_00/attention/query/kernel": P("fsdp", "tensor"),
    "image/layers_00/attention/value/kernel": P("fsdp", "tensor"),
    "image/layers_00/mlp/down/kernel": P("tensor", "fsdp"),
    "image/layers_00/mlp/up/kernel": P("fsdp", "tensor"),
    "image/patch_embed/kernel": P(None, None, None, "fsdp"),
    "image/position": P(None, "fsdp"),
    "image_projection/kernel": P("fsdp", None),
    "speech/feature_projection/kernel": P(None, "fsdp"),
    "speech/frontend/conv_0/kernel": P(None, None, "fsdp"),
    "speech/frontend/conv_1/kernel": P(None, None, "fsdp"),
    "speech/layers_00/attention/key/kernel": P("fsdp", "tensor"),
    "speech/layers_00/attention/out/kernel": P("tensor", "fsdp"),
    "speech/layers_00/attention/query/kernel": P("fsdp", "tensor"),
    "speech/layers_00/attention/value/kernel": P("fsdp", "tensor"),
    "speech/layers_00/mlp/down/kernel": P("tensor", "fsdp"),
    "speech/layers_00/mlp/up/kernel": P("fsdp", "tensor"),
    "speech/positional_conv/g": P(None, None, None),
    "speech/positional_conv/v": P(None, None, "fsdp"),
    "speech_head/layers_00/attention/key/kernel": P("fsdp", "tensor"),
    "speech_head/layers_00/attention/out/kernel": P("tensor", "fsdp"),
    "speech_head/layers_00/attention/query/kernel": P("fsdp", "tensor"),
    "speech_head/layers_00/attention/value/kernel": P("fsdp", "tensor"),
    "speech_head/layers_00/mlp/down/kernel": P("tensor", "fsdp"),
    "speech_head/layers_00/mlp/up/kernel": P("fsdp", "tensor"),
    "speech_projection/kernel": P("fsdp", None),
}


def test_layout_snapshot(abstract_params):
    sharding.check_rules(abstract_params)
    shardings = leaf_paths(sharding.tree_shardings(abstract_params, mesh_of(2, 2, 2)))
    leaves = leaf_paths(abstract_params)
    matrices = {path for path, leaf in leaves.items() if leaf.ndim >= 2}
    assert matrices == set(SNAPSHOT)
    for path, leaf in leaves.items():
        wanted = jax.sharding.NamedSharding(mesh_of(2, 2, 2), SNAPSHOT.get(path, P()))
        assert shardings[path].is_equivalent_to(wanted, leaf.ndim), path
    assert sharding.fallback_lines(abstract_params, mesh_of(2, 2, 2)) == []


def test_optimizer_state_lies_as_its_parameters():
    path = "image/layers_00/mlp/up/kernel"
    for prefix in ("params/", "opt_state/1/0/mu/", "ema_params/", ""):
        assert sharding.match_rule(prefix + path)[1] == P("fsdp", "tensor")
    assert sharding.match_rule("opt_state/1/0/count") is None
    # A rule matches whole names only.
    assert sharding.match_rule("params/my_image/position") is None


def test_leaf_without_a_rule_is_refused(abstract_params):
    params = {**abstract_params, "fusion": {"kernel": jax.ShapeDtypeStruct((4, 5), np.float32)}}
    with pytest.raises(ValueError, match=r"no sharding rule for fusion/kernel\[4, 5\]"):
        sharding.check_rules(params)


def test_rule_without_a_leaf_is_refused(abstract_params):
    params = {name: tree for name, tree in abstract_params.items() if name != "image"}
    with pytest.raises(ValueError, match="match no parameter: image/patch_embed/kernel, image/pos"):
        sharding.check_rules(params)


def test_axis_that_does_not_divide_is_replicated_and_named():
    leaf = {"image": {"position": jax.ShapeDtypeStruct((5, 30), np.float32)}}
    mesh = mesh_of(1, 8, 1)
    assert sharding.tree_shardings(leaf, mesh)["image"]["position"].spec == P(None, None)
    assert sharding.fallback_lines(leaf, mesh) == [
        "replicated: axis 1 of image/position[5, 30] is not a multiple of fsdp=8"
    ]


def test_factored_state_with_fewer_axes_than_the_rule_is_replicated():
    assert sharding.fit_spec("v_row/image/patch_embed/kernel", (8, 32), mesh_of(1, 8, 1)) == (
        P(),
        [],
    )


def test_mesh_is_auto_and_takes_the_remaining_devices():
    mesh = mesh_of(-1, 2, 1)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    # `jax.make_mesh` defaults to Explicit axes, under which the model raises.
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert mesh_of(2, 1, 1).size == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((16, 1, 1), "mesh.data=16, mesh.fsdp=1, mesh.tensor=1 needs 16 devices and there are 8"),
        ((-1, 16, 1), "needs 16 devices and there are 8"),
        ((-1, -1, 1), "at most one is -1"),
        ((0, 1, 1), "sizes are at least 1"),
    ],
)
def test_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        mesh_of(*sizes)


def test_batch_rows_lie_over_data_and_fsdp():
    cfg = tiny_config()
    batch = synthetic_batch(cfg)
    placed = sharding.place_batch(batch, mesh_of(4, 2, 1))
    for name, array in placed.items():
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {1}
        np.testing.assert_array_equal(np.asarray(array), batch[name])
