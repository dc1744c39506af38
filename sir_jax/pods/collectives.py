"""Find the collectives of a compiled program: their kind, axes, bytes and number of runs."""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "s16": 16,
    "u16": 16,
    "bf16": 16,
    "f16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
    "c64": 64,
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<out>\(?.*?\)?) "
    rf"(?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<args>.*?)\)(?P<rest>,.*)?$"
)
_WHILE = re.compile(r" while\(.*condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
_CONSTANT = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = s32\[\]\S* constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, as seen by one chip.

    Attributes:
      kind: one of `KINDS`.
      axes: the mesh axes along which the chips of a group differ.
      group: number of chips in a group.
      payload: bytes of the whole array: the result of an all-gather, the operand of an all-reduce
        or reduce-scatter, the array sent by an all-to-all or collective-permute.
      times: runs per step.
      largest: type and shape of its largest array.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    payload: int
    times: int
    largest: str

    @property
    def sent(self) -> float:
        """Return the bytes that a chip sends in a step, if the chips of a group form a ring."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.payload * self.times


def read_collectives(hlo: str, mesh: Mesh) -> list[Collective]:
    """Find the collectives of a compiled program.

    Args:
      hlo: text of the compiled program.
      mesh: the mesh that it was compiled for, which names the axes.

    Returns:
      The instructions that move data between chips. Inside of loops, `times` counts all turns; a
      loop of unknown length counts as one turn.
    """
    times, starts = turns(hlo), set()
    for computation, line in computations(hlo):
        if '"AsyncCollectiveStart"' in line:
            starts.add(computation)
    by_channel: dict[str, list[tuple[Collective, bool]]] = {}
    for number, (computation, line) in enumerate(computations(hlo)):
        match = _COLLECTIVE.match(line)
        if match:
            one = _collective(match, times.get(computation, 1), mesh)
            channel = re.search(r"channel_id=(\d+)", match["rest"] or "")
            key = f"{one.kind} {channel[1]}" if channel else str(number)
            if one.group > 1:
                by_channel.setdefault(key, []).append((one, computation in starts))
    return [_join_pieces(pieces) for pieces in by_channel.values()]


def _join_pieces(pieces: list[tuple[Collective, bool]]) -> Collective:
    """Join the pieces (collective, whether it is a start) of one asynchronous collective.

    A collective that overlaps with other work appears in the text several times with the same
    channel: where it starts, in loops that run meanwhile, and where it ends. It runs as often as
    its starts.
    """
    largest = max((one for one, _ in pieces), key=lambda one: one.payload)
    started = sum(one.times for one, start in pieces if start)
    return dataclasses.replace(largest, times=started or max(one.times for one, _ in pieces))


def computations(hlo: str) -> Iterator[tuple[str, str]]:
    """Yield (name of the computation, line) for each line of a program's text."""
    computation = ""
    for line in hlo.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            computation = head[1]
        else:
            yield computation, line


def loops(hlo: str) -> list[tuple[str, str, int | None]]:
    """Return (computation that contains the loop, body, number of turns) for each loop.

    The text of a TPU's program does not state the number of turns. JAX's loops count from 0 to a
    constant in their condition, which is used if the condition holds no other constant. Otherwise
    the number is None.
    """
    bounds: dict[str, list[int]] = {}
    for computation, line in computations(hlo):
        constant = _CONSTANT.match(line)
        if constant:
            bounds.setdefault(computation, []).append(int(constant[1]))
    all_loops = []
    for computation, line in computations(hlo):
        loop = _WHILE.search(line)
        if loop:
            trips, bound = _TRIPS.search(line), bounds.get(loop["condition"], [])
            known = int(trips[1]) if trips else bound[0] if len(bound) == 1 else None
            all_loops.append((computation, loop["body"], known))
    return all_loops


def turns(hlo: str) -> dict[str, int]:
    """Return how often each computation runs in a step; missing ones run once."""
    called: dict[str, list[tuple[str, int]]] = {}
    for computation, body, known in loops(hlo):
        called.setdefault(computation, []).append((body, known or 1))
    for computation, line in computations(hlo):
        for names in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
            called.setdefault(computation, []).append((names, 1))
    roots = called.keys() - {name for callees in called.values() for name, _ in callees}
    times: dict[str, int] = {}

    def visit(name: str, count: int) -> None:
        for inner, trips in called.get(name, ()):
            times[inner] = max(times.get(inner, 1), count * trips)
            visit(inner, count * trips)

    for root in roots:
        visit(root, 1)
    return times


def _collective(match: re.Match, times: int, mesh: Mesh) -> Collective:
    kind, rest = match["kind"], match["rest"] or ""
    groups = _groups(rest, kind, mesh.size)
    arrays = _ARRAY.findall(match["out"])
    if match["start"] and kind in ("all-gather", "collective-permute"):
        # An asynchronous start returns (operands, results, ...); only the results count.
        arrays = [a for a in arrays if a[0] not in ("u32", "s32") or a[1]]
        arrays = arrays[len(arrays) // 2 :]
    payload = sum(map(_bytes, arrays))
    size = len(groups[0]) if groups else mesh.size
    if kind == "reduce-scatter":
        payload *= size
    largest = max(arrays, key=_bytes, default=("", ""))
    return Collective(
        kind, _axes(groups, mesh), size, payload, times, f"{largest[0]}[{largest[1]}]"
    )


def array_bytes(hlo_type: str) -> int:
    """Return the bytes of an HLO type, such as 'bf16[4,8]{1,0}' or a tuple of types.

    Example:
      >>> array_bytes("(bf16[4,8]{1,0}, f32[])")
      68
    """
    return sum(map(_bytes, _ARRAY.findall(hlo_type)))


def _bytes(array: tuple[str, str]) -> int:
    dtype, dims = array
    return math.prod(int(d) for d in dims.split(",") if d) * _BITS.get(dtype, 0) // 8


def _groups(rest: str, kind: str, devices: int) -> list[list[int]]:
    """Return the groups of devices that communicate, in the mesh's order."""
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
        ends = [list(map(int, p.split(","))) for p in re.findall(r"\{([\d,]+)\}?", pairs[0])]
        return _rings(ends)
    meshed = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest)
    if meshed:
        return _mesh_groups(meshed[1], meshed[2])
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        ids = np.arange(devices).reshape([int(x) for x in iota[3].split(",")])
        if iota[4]:
            ids = ids.transpose([int(x) for x in iota[4].split(",")])
        return ids.reshape(int(iota[1]), int(iota[2])).tolist()
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
    if listed:
        return [list(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
    return [list(range(devices))]


def _mesh_groups(sizes: str, used: str) -> list[list[int]]:
    """Read `'a'=2,'b'=8` and `'b'`, which mean one group along b for each index along a."""
    named = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    along = re.findall(r"'(\w+)'", used)
    ids = np.arange(math.prod(named.values())).reshape(tuple(named.values()))
    order = [name for name in named if name not in along] + along
    ids = ids.transpose([list(named).index(name) for name in order])
    return ids.reshape(-1, math.prod(named[name] for name in along)).tolist()


def _rings(ends: list[list[int]]) -> list[list[int]]:
    """Join pairs of devices that share a device into groups."""
    rings: list[set[int]] = []
    for pair in ends:
        touching = [ring for ring in rings if ring & set(pair)]
        joined = set(pair).union(*touching)
        rings = [ring for ring in rings if ring not in touching] + [joined]
    return [sorted(ring) for ring in rings]


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """Return the axes along which the first group's devices differ."""
    where = np.array(np.unravel_index(groups[0], tuple(mesh.shape.values())))
    return tuple(name for name, at in zip(mesh.axis_names, where, strict=True) if len(set(at)) > 1)
