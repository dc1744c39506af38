"""The device mesh, and one strict table that says how every parameter lies on it."""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sir_jax.errors import UserError
from sir_jax.runtime.trees import any_match, leaf_paths, map_with_path

AXES = ("data", "fsdp", "tensor")

# The batch's rows lie over both axes: fsdp is data parallelism that also shards the weights.
BATCH_SPEC = P(("data", "fsdp"))

# (regex, spec). A rule owns every leaf whose path, or the end of it from a whole name on, it
# matches in full: `opt_state/1/0/mu/image/position` falls under `image/position`, so optimiser
# state and EMA lie as their parameters do. Kernels are [in, out]; convolutions [tap, in, out].
# Column-parallel then row-parallel over `tensor`, as Megatron-LM has it (arXiv 1909.08053).
RULES: tuple[tuple[str, P], ...] = (
    (r"(cross_)?attention/(query|key|value)/kernel", P("fsdp", "tensor")),
    (r"(cross_)?attention/out/kernel", P("tensor", "fsdp")),
    (r"mlp/up/kernel", P("fsdp", "tensor")),
    (r"mlp/down/kernel", P("tensor", "fsdp")),
    (r"speech/frontend/conv_\d+/kernel", P(None, None, "fsdp")),
    (r"speech/feature_projection/kernel", P(None, "fsdp")),
    (r"speech/positional_conv/v", P(None, None, "fsdp")),
    (r"speech/positional_conv/g", P()),
    (r"image/patch_embed/kernel", P(None, None, None, "fsdp")),
    (r"image/position|(image_head|pool_(speech|image))/queries", P(None, "fsdp")),
    (
        r"((speech|image)_projection|image_head/(projection|up)|match_head"
        r"|(fusion|late)/(speech|image)_in|denoise_(speech|image)"
        r"|pool_speech/convolution|speech_head/(layers_\d+|places|hidden|summary))/kernel",
        P("fsdp", None),
    ),
)


def make_mesh(cfg, devices: list[jax.Device] | None = None) -> Mesh:
    """Build the mesh with axes data, fsdp, tensor.

    Args:
      cfg: `config.mesh`: `data`, `fsdp`, `tensor`; one of them may be -1, all remaining devices.
      devices: None for all. A mesh smaller than that takes the first of them.

    Raises:
      UserError: where the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [int(cfg[axis]) for axis in AXES]
    text = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{text}: sizes are at least 1, and at most one is -1")
    if -1 in sizes:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = max(len(devices) // known, 1)
    total = int(np.prod(sizes))
    if total > len(devices):
        raise UserError(f"{text} needs {total} devices and there are {len(devices)}; lower them")
    if total < len(devices) and jax.process_count() > 1:
        raise UserError(f"{text} uses {total} of {len(devices)} devices; use all of every host's")
    # Auto is spelled out: `jax.make_mesh` defaults to Explicit axes, under which a Linen model,
    # a queue's update and a global similarity matrix all raise.
    types = (AxisType.Auto,) * len(AXES)
    slices = count_slices(devices)
    if slices == 1:
        try:
            return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices[:total])
        # JAX finds no such shape among the links of the chips.
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise UserError(
                f"{text}: {total} of {len(devices)} devices cannot be laid out so; use all of them"
            ) from error
    if sizes[0] % slices:
        raise UserError(
            f"{text}: mesh.data={sizes[0]} is no multiple of the {slices} slices, between which "
            "only data parallelism pays"
        )
    inner, outer = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1)
    return Mesh(create_hybrid_device_mesh(inner, outer, devices), AXES, axis_types=types)


def count_slices(devices: list[jax.Device]) -> int:
    """Return how many TPU slices, joined by the data-centre network, the devices belong to."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def match_rule(path: str) -> tuple[int, P] | None:
    """Return the first rule (its number and spec) that owns a leaf's path, or None."""
    for number, (pattern, spec) in enumerate(RULES):
        if re.fullmatch(f"(?:.*/)?(?:{pattern})", path):
            return number, spec
    return None


def check_rules(params: Any) -> None:
    """Hold the table to the model: every leaf of two or more axes has a rule, every rule a leaf.

    Args:
      params: the whole parameter tree, arrays or shapes.

    Raises:
      ValueError: naming the leaves without a rule, or the rules without a leaf.
    """
    used, orphans = set(), []
    for path, leaf in leaf_paths(params).items():
        found = match_rule(path)
        if found:
            used.add(found[0])
        elif leaf.ndim >= 2:
            orphans.append(f"{path}{list(leaf.shape)}")
    if orphans:
        raise ValueError(f"no sharding rule for {', '.join(orphans)}")
    idle = [pattern for number, (pattern, _) in enumerate(RULES) if number not in used]
    if idle:
        raise ValueError(f"sharding rules that match no parameter: {', '.join(idle)}")


def fit_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[P, list[str]]:
    """Find a leaf's spec on a mesh.

    Args:
      path: the leaf's path.
      shape: the leaf's shape.
      mesh: where it goes.

    Returns:
      The spec, in which an axis that does not divide its dimension is left out, and one line for
      each such axis. Leaves of fewer than two axes, or fewer than the spec has, are replicated.
    """
    found = match_rule(path)
    if found is None or len(shape) < max(2, len(found[1])):
        return P(), []
    spec, lines = [], []
    for dim, axis in enumerate(found[1]):
        if axis is not None and shape[dim] % mesh.shape[axis]:
            lines.append(
                f"replicated: axis {dim} of {path}{list(shape)} is not a multiple of "
                f"{axis}={mesh.shape[axis]}"
            )
            axis = None
        spec.append(axis)
    return P(*spec), lines


def tree_shardings(tree: Any, mesh: Mesh, whole: tuple[str, ...] = ()) -> Any:
    """Return the sharding of every leaf of parameters, optimiser state or a whole `TrainState`.

    Args:
      tree: arrays or shapes.
      mesh: where they go.
      whole: regexes of leaves that every device has a copy of; see `trees.path_matches`.
    """

    def place(path, leaf):
        spec = P() if any_match(whole, path) else fit_spec(path, leaf.shape, mesh)[0]
        return NamedSharding(mesh, spec)

    return map_with_path(place, tree)


def fallback_lines(params: Any, mesh: Mesh) -> list[str]:
    """Return one line for each parameter axis that could not be sharded as its rule says."""
    return [
        line
        for path, leaf in leaf_paths(params).items()
        for line in fit_spec(path, leaf.shape, mesh)[1]
    ]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of every array of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, BATCH_SPEC)


def row_shards(mesh: Mesh) -> int:
    """Return in how many parts a batch's rows lie on the mesh."""
    return math.prod(mesh.shape[axis] for axis in BATCH_SPEC[0])


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a scalar: a copy on every device."""
    return NamedSharding(mesh, P())


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a batch on the mesh, as part of the global batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
