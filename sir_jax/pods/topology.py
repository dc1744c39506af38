"""TPU topologies by name: the specification of a chip, and a mesh of devices without a TPU.

Rates are those of Google's public documentation. The rate of the interconnect is that of all
links of one chip together.
"""

import dataclasses
import math
import os
import re
from typing import Any

import jax
from jax.sharding import Mesh

from sir_jax.errors import UserError
from sir_jax.runtime.sharding import make_mesh
from sir_jax.training.instruments.peaks import peak_flops

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    Attributes:
      hbm: bytes that a program may use: the compiler's limit, which is below the chip's memory.
      flops: bfloat16 operations per second.
      hbm_rate: bytes per second of the memory.
      ici_rate: bytes per second that a chip can send to other chips of its slice.
      dims: dimensions of the network, 2 or 3.
      host: chips per host.
      options: options for the compiler besides the topology's name.
    """

    hbm: int
    flops: float
    hbm_rate: float
    ici_rate: float
    dims: int
    host: int
    options: tuple[tuple[str, str], ...] = ()


# One device per chip, as at run time; without this option v4 and v5p show two devices per chip.
_MEGACORE = (("chip_config_name", "megacore"),)

CHIPS: dict[str, Chip] = {
    "v4": Chip(32 * GIB, peak_flops("TPU v4"), 1.2e12, 300e9, 3, 4, _MEGACORE),
    "v5e": Chip(16 * GIB, peak_flops("TPU v5e"), 0.82e12, 200e9, 2, 4),
    "v5p": Chip(95 * GIB, peak_flops("TPU v5p"), 2.77e12, 600e9, 3, 4, _MEGACORE),
    "v6e": Chip(32 * GIB, peak_flops("TPU v6e"), 1.64e12, 448e9, 2, 4),
}

# Bytes per second of a host's network to other slices [assumed: 200 Gbit/s].
DCN_HOST_RATE = 25e9


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several equal slices of TPU chips.

    Attributes:
      generation: one of `CHIPS`.
      shape: chips along each dimension of a slice.
      slices: number of slices.
    """

    generation: str
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> "Topology":
        """Read `v5e:4x4`, or `2*v5e:4x4` for two slices.

        Raises:
          UserError: the text has another form, the generation is unknown, or its slices have
            another number of dimensions.

        Example:
          >>> topology = Topology.parse("2*v5e:4x4")
          >>> topology.generation, topology.shape, topology.slices, topology.chips
          ('v5e', (4, 4), 2, 32)
        """
        match = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)+)", text)
        if not match:
            raise UserError(f"topology {text!r}: give KIND:AxB or KIND:AxBxC, e.g. v5e:4x4")
        generation, shape = match[2], tuple(map(int, match[3].split("x")))
        if generation not in CHIPS:
            raise UserError(f"topology {text!r}: no kind {generation!r}; choose {', '.join(CHIPS)}")
        dims = CHIPS[generation].dims
        if len(shape) != dims:
            raise UserError(f"topology {text!r}: {generation} has {dims} dimensions")
        slices = int(match[1] or slices)
        if min(*shape, slices) < 1:
            raise UserError(f"topology {text!r}, {slices} slices: sizes are at least 1")
        return cls(generation, shape, slices)

    @property
    def chip(self) -> Chip:
        """Return the specification of the chips."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """Return the number of chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def name(self) -> str:
        """Return the text that `parse` reads."""
        text = f"{self.generation}:{'x'.join(map(str, self.shape))}"
        return f"{self.slices}*{text}" if self.slices > 1 else text

    def devices(self) -> list[Any]:
        """Return descriptions of the devices, for which programs can be compiled.

        Raises:
          UserError: no TPU compiler is installed, or it does not know the topology.
        """
        # The first two stop libtpu from waiting for a metadata server that does not exist. The last
        # one allows several processes to load libtpu, which is safe without chips.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        from jax.experimental import topologies

        options = dict(self.chip.options)
        if self.slices > 1:
            options["num_slices"] = self.slices
        name = f"{self.generation}:{'x'.join(map(str, self.shape))}"
        try:
            description = topologies.get_topology_desc(name, platform="tpu", **options)
        except Exception as error:  # noqa: BLE001 - the plug-in's errors are not documented
            raise UserError(
                f"topology {self.name}: {str(error).splitlines()[0]}; is jax[tpu] installed "
                "(pip install 'sir_jax[tpu]'), and is there such a slice?"
            ) from None
        return list(description.devices)

    def mesh(self, mesh_cfg) -> Mesh:
        """Return the mesh of a config on these chips.

        Args:
          mesh_cfg: the sizes of the mesh axes, `config.mesh`.

        Raises:
          UserError: the topology does not exist, or the mesh does not fit it.
        """
        devices = self.devices()
        if len(devices) != self.chips:
            raise UserError(f"topology {self.name}: {len(devices)} devices on {self.chips} chips")
        return make_mesh(mesh_cfg, devices)


def on_cpu() -> None:
    """Keep JAX on the CPU; programs that are compiled for TPUs here are never run."""
    jax.config.update("jax_platforms", "cpu")
