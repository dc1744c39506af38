import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.runtime.trees import check_patterns, leaf_paths, merge_trees, path_matches, split_tree

TREE = {
    "speech": {"frontend": {"conv_0": {"kernel": np.ones(3)}}, "norm": {"scale": np.ones(2)}},
    "temperature": np.ones(()),
}


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("speech/frontend", "speech/frontend/conv_0/kernel", True),
        ("speech/frontend/.*", "speech/frontend/conv_0/kernel", True),
        ("speech/front.*", "speech/frontend/conv_0/kernel", True),
        ("speech/front", "speech/frontend/conv_0/kernel", False),
        ("frontend", "speech/frontend/conv_0/kernel", False),
        (".*/(bias|scale)", "speech/norm/scale", True),
        ("image|speech/norm", "speech/norm/scale", True),
        ("temperature", "temperature", True),
    ],
)
def test_path_matches_whole_leading_names(pattern, path, matches):
    assert path_matches(pattern, path) is matches


def test_split_and_merge_are_inverse():
    rest, matched = split_tree(TREE, ("speech/frontend",))
    assert list(leaf_paths(matched)) == ["speech/frontend/conv_0/kernel"]
    assert list(leaf_paths(rest)) == ["speech/norm/scale", "temperature"]
    merged = merge_trees(rest, matched)
    assert list(leaf_paths(merged)) == list(leaf_paths(TREE))
    assert all(
        a is b for a, b in zip(leaf_paths(merged).values(), leaf_paths(TREE).values(), strict=True)
    )


def test_split_with_everything_or_nothing_matched():
    assert split_tree(TREE, (".*",))[0] == {}
    assert split_tree(TREE, ())[1] == {}


def test_pattern_without_a_leaf_is_refused_by_name():
    with pytest.raises(UserError, match=r"optim.freeze: 'speach/.*' matches no parameter.*speech"):
        check_patterns(("speech/norm", "speach/.*"), TREE, "optim.freeze")


def test_pattern_that_is_no_regex_is_refused():
    with pytest.raises(UserError, match=r"optim.freeze: '\(' is not a regex"):
        check_patterns(("(",), TREE, "optim.freeze")
