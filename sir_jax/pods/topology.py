"""TPU topologies by name: what a chip has, and a mesh of its devices with no TPU attached.

Peaks are those of Google's public documentation of each generation. Interconnect: bytes a second
that one chip sends over all of its links together.
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

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    Attributes:
      hbm: bytes that a program may use; the compiler's own limit, below what the chip has.
      flops: bfloat16 operations a second.
      hbm_rate: bytes a second.
      ici_rate: bytes a second to the other chips of the slice.
      dims: of the network: 2 or 3.
      host: chips of a host.
      options: what the compiler is told beside the topology's name.
    """

    hbm: int
    flops: float
    hbm_rate: float
    ici_rate: float
    dims: int
    host: int
    options: tuple[tuple[str, str], ...] = ()


# One device a chip, as at run time: without it, v4 and v5p show two half chips each.
_MEGACORE = (("chip_config_name", "megacore"),)

CHIPS: dict[str, Chip] = {
    "v4": Chip(32 * GIB, 275e12, 1.2e12, 300e9, 3, 4, _MEGACORE),
    "v5e": Chip(16 * GIB, 197e12, 0.82e12, 200e9, 2, 4),
    "v5p": Chip(95 * GIB, 459e12, 2.77e12, 600e9, 3, 4, _MEGACORE),
    "v6e": Chip(32 * GIB, 918e12, 1.64e12, 448e9, 2, 4),
}

# Bytes a second that a chip has of its host's network to other slices [assumed: 200 Gbit/s a host].
DCN_HOST_RATE = 25e9


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of chips, or several of the same kind.

    Attributes:
      kind: of `CHIPS`.
      shape: chips along each dimension of one slice.
      slices: how many.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> "Topology":
        """Read `v5e:4x4`, or `2*v5e:4x4` for two slices.

        Raises:
          UserError: another form, an unknown kind, or a shape that the kind has not.
        """
        found = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)+)", text)
        if not found:
            raise UserError(f"topology {text!r}: give KIND:AxB or KIND:AxBxC, e.g. v5e:4x4")
        kind, shape = found[2], tuple(map(int, found[3].split("x")))
        if kind not in CHIPS:
            raise UserError(f"topology {text!r}: no kind {kind!r}; choose {', '.join(CHIPS)}")
        if len(shape) != CHIPS[kind].dims:
            raise UserError(f"topology {text!r}: {kind} has {CHIPS[kind].dims} dimensions")
        slices = int(found[1] or slices)
        if min(*shape, slices) < 1:
            raise UserError(f"topology {text!r}, {slices} slices: sizes are at least 1")
        return cls(kind, shape, slices)

    @property
    def chip(self) -> Chip:
        """Return what each chip has."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Return the number of chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def name(self) -> str:
        """Return the text that `parse` reads."""
        text = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return f"{self.slices}*{text}" if self.slices > 1 else text

    def devices(self) -> list[Any]:
        """Return descriptions of the devices, for which programs can be compiled.

        Raises:
          UserError: no TPU compiler is installed, or it does not know the topology.
        """
        # libtpu would ask a metadata server that is not there, and wait for its answer; and allow
        # only one process of the machine to load it, which matters where it drives chips.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        from jax.experimental import topologies

        options = dict(self.chip.options)
        if self.slices > 1:
            options["num_slices"] = self.slices
        name = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        try:
            found = topologies.get_topology_desc(name, platform="tpu", **options)
        except Exception as error:  # noqa: BLE001 - the plug-in raises what it likes
            raise UserError(
                f"topology {self.name}: {str(error).splitlines()[0]}; is jax[tpu] installed "
                "(pip install 'sir_jax[tpu]'), and is there such a slice?"
            ) from None
        return list(found.devices)

    def mesh(self, mesh_cfg) -> Mesh:
        """Return the mesh of a config on these chips.

        Raises:
          UserError: see `devices` and `sharding.make_mesh`.
        """
        devices = self.devices()
        if len(devices) != self.chips:
            raise UserError(f"topology {self.name}: {len(devices)} devices on {self.chips} chips")
        return make_mesh(mesh_cfg, devices)


def on_cpu() -> None:
    """Keep JAX itself on the CPU: what is compiled here for TPUs never runs."""
    jax.config.update("jax_platforms", "cpu")
