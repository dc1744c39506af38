"""The sharding of every array of a training state, and the bytes of it on each chip."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import NamedSharding

from sir_jax.objective.switches import frozen_patterns
from sir_jax.runtime.trees import any_match, leaf_paths
from sir_jax.training.setup import Setup

MIB = 1 << 20


class Line(NamedTuple):
    """One array of the state."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str  # see `spec_text`
    bytes: int  # on one chip


def state_lines(setup: Setup) -> Iterator[Line]:
    """Yield a `Line` for each array of the state, in the order of the state."""
    shardings = leaf_paths(setup.shardings)
    for path, leaf in leaf_paths(setup.abstract).items():
        yield Line(
            path,
            tuple(leaf.shape),
            leaf.dtype.name,
            spec_text(shardings[path], len(leaf.shape)),
            chip_bytes(leaf, shardings[path]),
        )


def chip_bytes(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> int:
    """Return the bytes of an array on one chip."""
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def spec_text(sharding: NamedSharding, ndim: int) -> str:
    """Return a sharding as text: the mesh axes of each dimension, '-' for none, or 'whole'."""
    shape, axes = sharding.mesh.shape, []
    for axis in sharding.spec:
        names = [axis] if isinstance(axis, str) else list(axis or ())
        # A mesh axis of size 1 does not split the array.
        axes.append("+".join(name for name in names if shape[name] > 1) or None)
    if not any(axes):
        return "whole"
    return ",".join(axis or "-" for axis in axes + [None] * (ndim - len(axes)))


def explain(setup: Setup) -> str:
    """Return a table of the state's arrays, those that take most of a chip's memory first.

    Arrays of the same shape, dtype and sharding whose paths differ only in numbers, such as those
    of a stack of layers, share a row. Sums per part of the state follow.
    """
    lines = list(state_lines(setup))
    rows: dict[tuple, list[Line]] = {}
    for line in lines:
        key = re.sub(r"(?<=_)\d+(?=/)", "*", line.path), line.shape, line.dtype, line.spec
        rows.setdefault(key, []).append(line)
    order = sorted(rows.items(), key=lambda row: (-sum(x.bytes for x in row[1]), row[0]))
    width = max(len(key[0]) for key in rows)
    text = [
        f"{'array':<{width}}  {'shape':<20}{'type':<10}{'lies':<14}{'number':>6}{'MiB a chip':>12}"
    ]
    for (path, shape, dtype, spec), group in order:
        size = sum(line.bytes for line in group) / MIB
        shape = "x".join(map(str, shape)) or "-"
        text.append(
            f"{path:<{width}}  {shape:<20}{dtype:<10}{spec or '-':<14}{len(group):>6}{size:>12.3f}"
        )
    sums: dict[str, int] = {}
    frozen = frozen_patterns(setup.cfg)
    for line in lines:
        field, _, rest = line.path.partition("/")
        if field == "params":
            field = "params, frozen" if any_match(frozen, rest) else "params, trained"
        sums[field] = sums.get(field, 0) + line.bytes
    text += ["", *(f"{name:<16}{size / MIB:>10.1f} MiB a chip" for name, size in sums.items())]
    return "\n".join([*text, f"{'all':<16}{sum(sums.values()) / MIB:>10.1f} MiB a chip"])
