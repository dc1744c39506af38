"""Parameter trees by path: one spelling of a leaf's name for freezing, decay, sharding and errors.

A path is the names from the root joined by slashes: `speech/frontend/conv_0/kernel`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from sir_jax.errors import UserError


def leaf_paths(tree: Any) -> dict[str, Any]:
    """Return every leaf of a tree by its path, in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def map_with_path(fn, tree: Any) -> Any:
    """Map fn(path, leaf) over a tree, keeping its structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fn(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def path_matches(pattern: str, path: str) -> bool:
    """Tell whether a regex matches a whole path or whole leading components of it.

    `speech/frontend` and `speech/front.*` both match `speech/frontend/conv_0/kernel`;
    `speech/front` does not.
    """
    return re.fullmatch(f"(?:{pattern})(?:/.*)?", path) is not None


def any_match(patterns: Iterable[str], path: str) -> bool:
    """Tell whether any of the regexes matches the path; see `path_matches`."""
    return any(path_matches(pattern, path) for pattern in patterns)


def check_patterns(patterns: Iterable[str], tree: Any, field: str) -> None:
    """Refuse a pattern that is no regex or that names nothing in the tree.

    Args:
      patterns: regexes; see `path_matches`.
      tree: parameters, or anything with the same paths.
      field: the config field that the patterns come from, for the message.

    Raises:
      UserError: naming the field, the pattern and a few paths that exist.
    """
    paths = list(leaf_paths(tree))
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{field}: {pattern!r} is not a regex: {error}") from None
        if not any(path_matches(pattern, path) for path in paths):
            some = ", ".join(dict.fromkeys("/".join(path.split("/")[:2]) for path in paths))
            raise UserError(
                f"{field}: {pattern!r} matches no parameter; it must match a whole path or its "
                f"leading names, and those begin with {some}"
            )


def split_tree(tree: Mapping, patterns: Iterable[str]) -> tuple[dict, dict]:
    """Split nested dicts into (leaves that no pattern matches, leaves that one does)."""
    patterns = tuple(patterns)
    rest, matched = {}, {}
    for path, leaf in leaf_paths(tree).items():
        target = matched if any_match(patterns, path) else rest
        *parents, name = path.split("/")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = leaf
    return rest, matched


def merge_trees(a: Mapping, b: Mapping) -> dict:
    """Join two nested dicts that share no leaf; the inverse of `split_tree`.

    Keys come out sorted, as JAX orders a dict's leaves.
    """
    merged = {}
    for name in sorted(a.keys() | b.keys()):
        if name in a and name in b:
            merged[name] = merge_trees(a[name], b[name])
        else:
            merged[name] = a[name] if name in a else b[name]
    return merged


def overlay(base: Mapping, over: Mapping) -> dict:
    """Return nested dicts `base` with the leaves that `over` has taken from there."""
    return {
        name: value
        if name not in over
        else overlay(value, over[name])
        if isinstance(value, Mapping)
        else over[name]
        for name, value in base.items()
    }


def restrict(tree: Mapping, like: Mapping) -> dict:
    """Return the leaves of nested dicts that `like` has as well."""
    return {
        name: restrict(tree[name], value) if isinstance(value, Mapping) else tree[name]
        for name, value in like.items()
    }
