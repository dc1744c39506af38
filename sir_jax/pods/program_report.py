"""Compile a program for a topology, and report the memory, arithmetic and traffic of a chip."""

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
from sir_jax.pods.topology import DCN_HOST_RATE, GIB, Topology
from sir_jax.pods.traffic import Traffic, describe_traffic_by, read_traffic
from sir_jax.training.instruments.flops import count_flops
from sir_jax.training.setup import Setup

FULL = 0.9  # largest share of a chip's memory that passes; the runtime needs some memory, too


@dataclasses.dataclass(frozen=True)
class Report:
    """The compiler's report of one program; all sizes are those of one chip.

    Attributes:
      program: name of the program.
      arguments: bytes of the arguments, which include the state.
      temporaries: bytes of temporary arrays.
      outputs: bytes of results, except those that reuse an argument's memory.
      code: bytes of instructions.
      flops: floating-point operations.
      hbm_bytes: bytes read and written, by the compiler's estimate, corrected for loops by
        `loops.loop_factor`.
      collectives: the program's collectives.
      compile_seconds: compilation time on this machine.
      unknown_loops: number of loops of unknown length; their bodies count once.
      traffic: who moves the bytes, counted here; None where it is not known.
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
    traffic: Traffic | None = None

    @property
    def peak(self) -> int:
        """Return the bytes of memory that the program needs."""
        return self.arguments + self.temporaries + self.outputs + self.code


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The seconds that a program needs of each resource at its peak rate."""

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def step(self) -> float:
        """Return a bound of the program's time; arithmetic overlaps with memory, not with links."""
        return max(self.compute, self.memory) + self.ici + self.dcn

    @property
    def utilisation(self) -> float:
        """Return the share of the peak arithmetic that the bound allows."""
        return self.compute / self.step


def check_program(program: programs.Program, lowered, topology: Topology, mesh) -> Report:
    """Compile a program and collect the compiler's report.

    Args:
      program: the program.
      lowered: the lowered form of `program`.
      topology: the topology to compile for.
      mesh: the mesh of the topology's chips.

    Raises:
      UserError: the program does not fit into a chip's memory, or cannot be compiled.
    """
    began = time.perf_counter()
    flops = count_flops(program.jaxpr()) / topology.chips
    try:
        compiled = lowered.compile()
    except Exception as error:  # noqa: BLE001 - XLA raises one type for all errors
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
        traffic=read_traffic(hlo),
    )


def _refusal(text: str, name: str, topology: Topology) -> str:
    # The two messages of XLA about a lack of memory.
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
    """Bound a program's time from below by the peak rates of a chip and its links.

    A collective along `data` on several slices is assumed to be hierarchical: within each slice
    first, then between the slices, where each chip sends its part over the hosts' network.
    """
    chip = topology.chip
    sent = sum(one.sent for one in report.collectives)
    crossing = 0.0
    if topology.slices > 1:
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
    """Return a report as lines of text."""
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
    if report.traffic:
        lines += describe_traffic_by(report.traffic)
    for (kind, axes), group in group_collectives(report.collectives).items():
        payload = sum(one.payload * one.times for one in group)
        lines.append(
            f"  {sum(one.times for one in group):>4} x {kind:<19} over {'+'.join(axes):<10}"
            f"{payload / 1e6:>10.2f} MB; largest {max(group, key=lambda o: o.payload).largest}"
        )
    if report.unknown_loops:
        lines.append(f"  loops of unknown length, counted once: {report.unknown_loops}")
    return lines


def group_collectives(collectives: Iterable[Collective]) -> dict[tuple, list[Collective]]:
    """Group collectives by kind and axes."""
    groups: dict[tuple, list[Collective]] = {}
    for one in collectives:
        groups.setdefault((one.kind, one.axes), []).append(one)
    return dict(sorted(groups.items()))


def describe_traffic(setup: Setup, samples: int, report: Report) -> str:
    """Compare the traffic of a train step with the expected traffic, in one line of text."""
    expected = expected_traffic(setup, samples)
    sent = sum(one.payload * one.times for one in report.collectives)
    return f"  sends {sent / 1e6:.1f} MB of whole arrays a step; expected {expected.text}"


def problems(setup: Setup, report: Report, topology: Topology) -> list[str]:
    """Return a message for each fault of a program: too much memory, or traffic of the queue."""
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
