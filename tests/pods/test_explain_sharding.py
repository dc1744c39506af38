"""The sharding of each paper config's state, against snapshots and against the bytes."""

import dataclasses
import functools
from pathlib import Path

import pytest

from sir_jax.config.command_line import load_config
from sir_jax.pods.explain_sharding import explain, state_lines
from sir_jax.pods.topology import Topology
from sir_jax.runtime.trees import leaf_paths
from sir_jax.training.setup import prepare
from sir_jax.training.state import state_shardings

SNAPSHOTS = Path(__file__).parent / "snapshots"
TOPOLOGY = Topology.parse("v5e:4x4")


@functools.cache
def prepared(name: str):
    """Return the `Setup` of a full-size config: to trace a model of such depth takes seconds."""
    cfg = load_config(f"configs/{name}.py:pod=v5e:4x4")
    return prepare(cfg, TOPOLOGY.mesh(cfg.mesh))


def laid_out(name: str, **mesh):
    """Return the `Setup` of a full-size config on 16 chips."""
    setup = prepared(name)
    cfg = setup.cfg.copy_and_resolve_references()
    cfg.mesh.update(mesh)
    chips = TOPOLOGY.mesh(cfg.mesh)
    shardings = state_shardings(setup.abstract, chips, cfg)
    return dataclasses.replace(setup, cfg=cfg, mesh=chips, shardings=shardings)


@pytest.mark.parametrize("name", ["cmd", "coarse_to_fine", "unified"])
def test_snapshot(name, request):
    # Both fsdp and tensor are above 1, so that every sharding rule has an effect.
    text = explain(laid_out(name, fsdp=4, tensor=2, frozen_whole=1.0)) + "\n"
    path = SNAPSHOTS / f"{name}.txt"
    assert text == path.read_text(), f"if the change is intended, replace {path}"


def test_bytes_of_all_chips_add_up():
    whole = laid_out("cmd", frozen_whole=0.0)
    cut = laid_out("cmd", fsdp=4, frozen_whole=0.0)
    sizes = {
        path: leaf.size * leaf.dtype.itemsize for path, leaf in leaf_paths(whole.abstract).items()
    }
    assert {line.path: line.bytes for line in state_lines(whole)} == sizes
    for line in state_lines(cut):
        share = 4 if "fsdp" in line.spec else 1
        assert line.bytes * share == sizes[line.path], line


def test_small_frozen_encoders_are_replicated():
    specs = {
        line.path: line.spec
        for line in state_lines(laid_out("coarse_to_fine", fsdp=4, frozen_whole=1.0))
    }
    # In bfloat16 HuBERT-large takes 0.6 GiB, below the limit of 1 GiB, and ViT-g 1.8 GiB.
    assert {spec for path, spec in specs.items() if path.startswith("params/speech/")} == {"whole"}
    assert specs["params/image/layers_00/mlp/up/kernel"] == "fsdp,-"
    assert specs["params/fusion/layers_00/mlp/up/kernel"] == "fsdp,-"
    assert specs["opt_state/1/0/mu/fusion/layers_00/mlp/up/kernel"] == "fsdp,-"
