"""The rule engine on hand-made tables: every mistake is named, and nothing is read before."""

import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.pretrained.rules import (
    CONV2D,
    LINEAR,
    Rule,
    Transform,
    make_plan,
    pair,
    read_leaves,
    tensor_names,
    tensor_shapes,
    to_tensor,
)

FUSED = Transform(
    lambda x: tuple(part.T for part in np.split(x, 2)), lambda a, b: np.concatenate([a.T, b.T])
)
RULES = [
    *pair("h.{n}.fc", "layers_{n:02d}/mlp"),
    Rule("h.{n}.qk", ("layers_{n:02d}/q/kernel", "layers_{n:02d}/k/kernel"), FUSED),
    Rule("conv.{n}.weight", "conv_{n}/kernel", CONV2D),
    Rule("old.{n}.weight", "conv_{n}/kernel", CONV2D),
    Rule("text.{any}", None),
]
SHAPES = {
    "layers_10/mlp/kernel": (3, 5),
    "layers_10/mlp/bias": (5,),
    "layers_10/q/kernel": (3, 2),
    "layers_10/k/kernel": (3, 2),
    "conv_0/kernel": (7, 6, 3, 4),
}


def tensors():
    shapes = {
        "h.10.fc.weight": (5, 3),
        "h.10.fc.bias": (5,),
        "h.10.qk": (4, 3),
        "conv.0.weight": (4, 3, 7, 6),
        "text.a.b": (1,),
        "text.c": (),
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def plan(given, **kwargs):
    shapes = {name: value.shape for name, value in given.items()}
    return make_plan(shapes, RULES, SHAPES, "here", **kwargs)


def problems(given, **kwargs):
    with pytest.raises(UserError) as caught:
        plan(given, **kwargs)
    head, _, rest = str(caught.value).partition(": ")
    assert head == "here does not fit its config"
    return rest.split("; ")


def test_leaves_have_the_values_and_layout_of_their_tensors():
    given = tensors()
    leaves = dict(read_leaves(plan(given), given.__getitem__))
    assert {path: leaf.shape for path, leaf in leaves.items()} == SHAPES
    np.testing.assert_array_equal(leaves["layers_10/mlp/kernel"], given["h.10.fc.weight"].T)
    np.testing.assert_array_equal(leaves["layers_10/mlp/bias"], given["h.10.fc.bias"])
    np.testing.assert_array_equal(leaves["layers_10/q/kernel"], given["h.10.qk"][:2].T)
    np.testing.assert_array_equal(leaves["layers_10/k/kernel"], given["h.10.qk"][2:].T)
    assert leaves["conv_0/kernel"][6, 5, 2, 3] == given["conv.0.weight"][3, 2, 6, 5]
    assert all(leaf.flags.c_contiguous for leaf in leaves.values())


def test_leaves_become_the_tensors_that_they_were():
    given = tensors()
    leaves = dict(read_leaves(plan(given), given.__getitem__))
    names = tensor_names(SHAPES, RULES)
    assert sorted(names) == sorted(name for name in given if not name.startswith("text."))
    for name, (rule, paths) in names.items():
        np.testing.assert_array_equal(to_tensor(rule, paths, leaves), given[name], err_msg=name)
    assert tensor_shapes(SHAPES, RULES) == {name: given[name].shape for name in names}


def test_dropped_tensors_are_told_by_their_rule_and_never_read():
    given = tensors()
    made = plan(given)
    assert made.dropped == {"text.{any}": ["text.a.b", "text.c"]}
    read = []
    dict(read_leaves(made, lambda name: read.append(name) or given[name]))
    assert sorted(read) == ["conv.0.weight", "h.10.fc.bias", "h.10.fc.weight", "h.10.qk"]


def test_every_mistake_is_named_together_in_the_checkpoints_own_terms():
    given = tensors()
    del given["h.10.fc.weight"], given["h.10.qk"]
    given["h.10.fc.bias"] = np.zeros((4,))
    given["h.11.fc.bias"] = np.zeros((5,))
    given["old.0.weight"] = given["conv.0.weight"]
    given["head.text.weight"] = np.zeros(1)
    assert problems(given) == [
        "tensor h.10.fc.bias has shape (4,), not (5,)",
        "tensor h.11.fc.bias has no leaf layers_11/mlp/bias in this config",
        "tensor head.text.weight is unknown",
        "tensor old.0.weight gives leaf conv_0/kernel a second time",
        "tensor h.10.fc.weight is missing (leaf layers_10/mlp/kernel)",
        "tensor h.10.qk is missing (leaves layers_10/q/kernel, layers_10/k/kernel)",
    ]


def test_shape_is_told_as_the_checkpoint_has_it():
    given = tensors() | {"conv.0.weight": np.zeros((3, 4, 7, 6)), "h.10.qk": np.zeros((4, 4))}
    assert problems(given) == [
        "tensor conv.0.weight has shape (3, 4, 7, 6), not (4, 3, 7, 6)",
        "tensor h.10.qk has shape (4, 4), not (4, 3)",
    ]


def test_prefix_changes_nothing_but_names_in_errors():
    given = {f"model.{name}": value for name, value in tensors().items()}
    leaves = dict(read_leaves(plan(given, prefixes=("model.",)), given.__getitem__))
    bare = tensors()
    expected = dict(read_leaves(plan(bare), bare.__getitem__))
    for path, value in expected.items():
        np.testing.assert_array_equal(leaves[path], value, err_msg=path)
    del given["model.h.10.fc.bias"]
    missing = "tensor model.h.10.fc.bias is missing (leaf layers_10/mlp/bias)"
    assert problems(given, prefixes=("model.",)) == [missing]


def test_one_tensor_with_and_without_its_prefix_is_refused():
    given = tensors()
    given["model.h.10.fc.bias"] = given["h.10.fc.bias"]
    twice = "tensor model.h.10.fc.bias gives leaf layers_10/mlp/bias a second time"
    assert problems(given, prefixes=("model.",)) == [twice]


def test_other_spelling_loads_and_is_written_as_the_first():
    given = tensors()
    given["old.0.weight"] = given.pop("conv.0.weight")
    leaves = dict(read_leaves(plan(given), given.__getitem__))
    assert leaves["conv_0/kernel"].shape == (7, 6, 3, 4)
    assert "conv.0.weight" in tensor_names(leaves, RULES)


def test_leaves_that_no_rule_or_half_a_rule_gives_are_refused():
    with pytest.raises(ValueError, match="no rule gives leaf extra"):
        tensor_names(["extra"], RULES)
    with pytest.raises(ValueError, match="layers_00/q/kernel lacks its others"):
        tensor_names(["layers_00/q/kernel"], RULES)


def test_number_is_written_as_the_path_says():
    assert Rule("a.{n}", "b_{n}/c").leaves("a.7") == ("b_7/c",)
    assert Rule("a.{n}", ("b_{n:02d}/c", "d_{n}")).leaves("a.7") == ("b_07/c", "d_7")
    assert Rule("a", "b").leaves("a") == ("b",)
    assert Rule("a", None).leaves("a") == ()


def test_a_dot_in_a_name_is_a_dot():
    shapes = {"aXb": (1,)}
    with pytest.raises(UserError, match="aXb is unknown"):
        make_plan(shapes, [Rule("a.b", "c", LINEAR)], {}, "here")
