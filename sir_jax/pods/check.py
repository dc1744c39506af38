"""Compile a config's programs for a topology, and say what a chip has to hold, do and send."""

import dataclasses
import math
import re
import time
from collections.abc import Iterable

from sir_jax.errors import UserError
from sir_jax.pods import programs
from sir_jax.pods.collectives import Collective, loops, read_collectives
from sir_jax.pods.expected import expected_traffic
from sir_jax.pods.loops import loop_factor
from sir_jax.pods.step_flops import count_flops
from sir_jax.pods.topology import DCN_HOST_RATE, GIB, Topology
from sir_jax.training.setup import Setup

# Above this share of a chip's memory a program does not pass: the runtime wants some, too.
FULL = 0.9


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says of one program.

    Attributes:
      program: its name.
      arguments: bytes of a chip that the program is given, the state among them.
      temporaries: bytes that it uses meanwhile.
      outputs: bytes of results that do not take an argument's place.
      code: bytes of instructions.
      flops: operations of one chip.
      hbm_bytes: that it reads and writes, as the compiler estimates; see `loops`.
      collectives: see `read_collectives`.
      compile_seconds: on this machine.
      unknown_loops: loops whose length the program does not tell; they count as run once.
    """

    program: str
    arguments: int
    temporaries: int
    outputs: int
    code: int
    flops: float
    hbm_bytes: float
    collectives: tuple[Collective, ...]
    compile_seconds: float
    unknown_loops: int = 0

    @property
    def peak(self) -> int:
        """Return the bytes of a chip's memory that the program needs."""
        return self.arguments + self.temporaries + self.outputs + self.code


@dataclasses.dataclass(frozen=True)
class Roofline:
    """A lower bound of a program's time, in seconds, each resource at its peak."""

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def step(self) -> float:
        """Return the bound: arithmetic and memory overlap, nothing overlaps with the network."""
        return max(self.compute, self.memory) + self.ici + self.dcn

    @property
    def utilisation(self) -> float:
        """Return which share of the peak arithmetic the bound allows."""
        return self.compute / self.step


def check_program(program: programs.Program, lowered, topology: Topology, mesh) -> Report:
    """Compile a program and read what the compiler says of it.

    Args:
      program: to be compiled.
      lowered: the same, lowered.
      topology: for which.
      mesh: of its chips.

    Raises:
      UserError: it does not fit into a chip's memory; says by how much.
    """
    began = time.perf_counter()
    flops = count_flops(program.jaxpr()) / topology.chips
    try:
        compiled = lowered.compile()
    except Exception as error:  # noqa: BLE001 - XLA has one type for everything
        raise UserError(_refusal(str(error), program.name, topology)) from None
    seconds = time.perf_counter() - began
    memory, cost, hlo = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    return Report(
        program=program.name,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=flops,
        hbm_bytes=cost.get("bytes accessed", math.nan) * loop_factor(hlo),
        collectives=tuple(read_collectives(hlo, mesh)),
        compile_seconds=seconds,
        unknown_loops=sum(trips is None for *_, trips in loops(hlo)),
    )


def _refusal(text: str, name: str, topology: Topology) -> str:
    # XLA's two ways of saying so.
    used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", text) or re.search(
        r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", text
    )
    if used:
        return (
            f"{name} does not fit on {topology.name}: needs {used[1]} of {used[2]} a chip; lower "
            "data.batch_size, raise train.grad_cache or mesh.fsdp, or take more chips"
        )
    return f"{name} cannot be compiled for {topology.name}: {text.splitlines()[0]}"


def roofline(report: Report, topology: Topology) -> Roofline:
    """Bound a program's time from below by what a chip and its links can do.

    A collective along `data` between slices sends its share over the hosts' network: of n rows of
    chips in s slices, a ring crosses slices s times out of n.
    """
    chip = topology.chip
    sent = sum(one.sent for one in report.collectives)
    crossing = 0.0
    if topology.slices > 1:
        # Hierarchically: within a slice first, then each chip's part between the slices.
        crossing = sum(
            one.sent / (one.group / topology.slices)
            for one in report.collectives
            if "data" in one.axes
        )
    return Roofline(
        compute=report.flops / chip.flops,
        memory=report.hbm_bytes / chip.hbm_rate,
        ici=sent / chip.ici_rate,
        dcn=crossing / (DCN_HOST_RATE / chip.host),
    )


def describe(report: Report, topology: Topology) -> list[str]:
    """Spell a report in lines."""
    chip, bound = topology.chip, roofline(report, topology)
    share = report.peak / chip.hbm
    lines = [
        f"{report.program}: {report.peak / GIB:.2f} of {chip.hbm / GIB:g} GiB a chip "
        f"({100 * share:.0f} %): arguments {report.arguments / GIB:.2f}, temporaries "
        f"{report.temporaries / GIB:.2f}, results {report.outputs / GIB:.2f}, code "
        f"{report.code / GIB:.2f}; compiled in {report.compile_seconds:.0f} s",
        f"  {report.flops / 1e12:.2f} TFLOP and {report.hbm_bytes / 1e9:.1f} GB of memory traffic "
        f"a chip; at least {1e3 * bound.step:.0f} ms: arithmetic {1e3 * bound.compute:.0f}, memory "
        f"{1e3 * bound.memory:.0f}, links {1e3 * bound.ici:.1f}, between slices "
        f"{1e3 * bound.dcn:.1f}; at most {100 * bound.utilisation:.0f} % of the peak",
    ]
    for (kind, axes), group in grouped(report.collectives).items():
        payload = sum(one.payload * one.times for one in group)
        lines.append(
            f"  {sum(one.times for one in group):>4} x {kind:<19} over {'+'.join(axes):<10}"
            f"{payload / 1e6:>10.2f} MB; largest {max(group, key=lambda o: o.payload).largest}"
        )
    if report.unknown_loops:
        lines.append(f"  loops of unknown length, counted once: {report.unknown_loops}")
    return lines


def grouped(collectives: Iterable[Collective]) -> dict[tuple, list[Collective]]:
    """Return collectives by kind and axes."""
    found: dict[tuple, list[Collective]] = {}
    for one in collectives:
        found.setdefault((one.kind, one.axes), []).append(one)
    return dict(sorted(found.items()))


def describe_traffic(setup: Setup, samples: int, report: Report) -> str:
    """Lay what a train step sends beside what it has to send."""
    wanted = expected_traffic(setup, samples)
    got = sum(one.payload * one.times for one in report.collectives)
    parts = ", ".join(
        f"{name.replace('_', ' ')} {size / 1e6:.1f}" for name, size in wanted._asdict().items()
    )
    return (
        f"  sends {got / 1e6:.1f} MB of whole arrays a step; by hand {wanted.total / 1e6:.1f} MB: "
        f"{parts}"
    )


def problems(setup: Setup, report: Report, topology: Topology) -> list[str]:
    """Return what must not be: too full a chip, or a collective that moves the queue."""
    lines = []
    if report.peak > FULL * topology.chip.hbm:
        lines.append(
            f"{report.program} takes {report.peak / GIB:.1f} of {topology.chip.hbm / GIB:g} GiB "
            f"on {topology.name}, more than {FULL:.0%}; lower data.batch_size or raise "
            "train.grad_cache"
        )
    if setup.abstract.queue is not None:
        rows = setup.abstract.queue.ids.shape[0]
        lines += [
            f"{report.program}: {one.kind} moves the queue: {one.largest}"
            for one in report.collectives
            if re.search(rf"[\[,]{rows}[,\]]", one.largest)
        ]
    return lines
