"""TPU topologies by name, and meshes of described devices."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from sir_jax.errors import UserError
from sir_jax.pods.topology import CHIPS, Topology

MESH = {"data": -1, "fsdp": 1, "tensor": 1}


def test_names():
    one = Topology.parse("v5e:4x4")
    assert (one.chips, one.slices, one.name) == (16, 1, "v5e:4x4")
    two = Topology.parse("2*v4:2x2x4")
    assert (two.chips, two.slices, two.name) == (32, 2, "2*v4:2x2x4")
    assert Topology.parse("v5e:4x4", slices=3).name == "3*v5e:4x4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e", "topology 'v5e': give KIND:AxB"),
        ("v5e:16", "give KIND:AxB"),
        ("v9:4x4", "no kind 'v9'; choose v4, v5e, v5p, v6e"),
        ("v4:4x4", "v4 has 3 dimensions"),
        ("v5e:0x4", "sizes are at least 1"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(UserError, match=message):
        Topology.parse(text)


def test_a_slice_that_does_not_exist():
    with pytest.raises(UserError, match="topology v5e:3x5: .*is there such a slice"):
        Topology.parse("v5e:3x5").devices()


@pytest.mark.parametrize("name", ["v4:2x2x2", "v5e:4x4", "v5p:2x2x2", "v6e:2x4"])
def test_a_device_is_a_chip(name):
    topology = Topology.parse(name)
    mesh = topology.mesh(ConfigDict(MESH | {"fsdp": 2}))
    assert dict(mesh.shape) == {"data": topology.chips // 2, "fsdp": 2, "tensor": 1}
    assert mesh.size == topology.chips
    assert topology.generation in CHIPS


def test_only_data_parallelism_crosses_slices():
    mesh = Topology.parse("2*v5e:4x4").mesh(ConfigDict(MESH | {"fsdp": 4}))
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert mesh.devices.shape == (8, 4, 1)
    assert (slices[:4] == 0).all() and (slices[4:] == 1).all()
    with pytest.raises(UserError, match="mesh.data=1 is no multiple of the 2 slices"):
        Topology.parse("2*v5e:4x4").mesh(ConfigDict({"data": 1, "fsdp": 32, "tensor": 1}))
