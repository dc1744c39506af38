"""Count the bytes that the instructions of a program move, and correct XLA's estimate for loops.

XLA counts the body of a loop once, although it runs many times. Here the bytes of all instructions
are counted twice: once per instruction, and once per run. The ratio corrects XLA's number.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from sir_jax.pods.collectives import KINDS, array_bytes, computations, turns

# Instructions without memory traffic of their own.
_FREE = frozenset(
    (
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "after-all",
        "partition-id",
        "replica-id",
        "iota",
        "opt-barrier",
    )
)
_INSTRUCTION = re.compile(r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_ARRAY = re.compile(r"(\w+\[[\d,]*\])(\{[^}]*\})?")
# Custom calls that move nothing: a name for parts of an array, and memory without a value.
_NAMES = ("ConcatBitcast", "AllocateBuffer")
_PATH = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      root: whether it is the result of its computation.
      name: unique in its computation.
      op: such as 'fusion' or 'copy'.
      sizes: bytes of its result, or of each array of a tuple.
      near: for each of them, whether it lies in the chip's vector memory.
      operands: names of its operands.
      calls: name of the computation that a fusion holds; '' for others.
      parameter: number of a parameter; -1 for other instructions.
      path: the named scopes and the primitive that it comes from, with slashes; '' where not said.
      target: name of what a custom call calls; '' for others.
    """

    root: bool
    name: str
    op: str
    sizes: tuple[int, ...]
    near: tuple[bool, ...]
    operands: tuple[str, ...]
    calls: str
    parameter: int
    path: str
    target: str

    @property
    def bytes(self) -> int:
        """Return the bytes of its result."""
        return sum(self.sizes)

    @property
    def far(self) -> float:
        """Return the share of its result that lies in the chip's main memory."""
        inside = sum(size for size, near in zip(self.sizes, self.near, strict=True) if near)
        return 1 - inside / self.bytes if self.bytes else 1.0


class Moved(NamedTuple):
    """What an instruction reads and writes."""

    one: Instruction
    inside: tuple[Instruction, ...]  # the instructions of a fusion, to any depth
    path: str  # the named scopes that it comes from; of a copy without any, its reader's
    bytes: int  # in one run
    main: int  # of these, to and from the chip's main memory
    times: int  # runs per step


def loop_factor(hlo: str) -> float:
    """Return the ratio of the bytes that a program moves to those if each loop ran once.

    Args:
      hlo: text of the compiled program.
    """
    once = all_turns = 0
    for moved in moved_bytes(hlo):
        once += moved.bytes
        all_turns += moved.bytes * moved.times
    return all_turns / once if once else 1.0


def scope_paths(hlo: str) -> dict[str, str]:
    """Return the named scopes that each instruction of a program comes from, by its name.

    Args:
      hlo: text of the compiled program.
    """
    bodies, paths = _parse(hlo), {}
    for body in bodies.values():
        readers = {name: one for one in body.values() for name in one.operands}
        for name, one in body.items():
            paths[name] = _path(one, tuple(_inside(bodies, one)), readers)
    return paths


def moved_bytes(hlo: str) -> Iterator[Moved]:
    """Yield what each instruction of a program moves, except those that move nothing.

    Args:
      hlo: text of the compiled program.
    """
    bodies, times = _parse(hlo), turns(hlo)
    called = {one.calls for body in bodies.values() for one in body.values() if one.calls}
    reads = functools.lru_cache(maxsize=None)(lambda *key: _reads(bodies, *key))
    for name, body in bodies.items():
        if name in called:
            continue  # a fused computation counts at the instruction that calls it
        readers = {name: one for one in body.values() for name in one.operands}
        for one in body.values():
            parts = _moved(bodies, body, one, reads)
            size = sum(part for part, _ in parts)
            if size:
                main = sum(part * memory.far for part, memory in parts)
                inside = tuple(_inside(bodies, one))
                path = _path(one, inside, readers)
                yield Moved(one, inside, path, size, round(main), times.get(name, 1))


def _path(one: Instruction, inside: tuple[Instruction, ...], readers) -> str:
    path = one.path or next((inner.path for inner in inside[::-1] if inner.path), "")
    while not path and one.name in readers:
        one = readers[one.name]
        path = one.path
    return path


def _inside(bodies, one: Instruction) -> Iterator[Instruction]:
    for inner in bodies.get(one.calls, {}).values():
        yield inner
        yield from _inside(bodies, inner)


def _moved(
    bodies, body: dict[str, Instruction], one: Instruction, reads
) -> list[tuple[int, Instruction]]:
    """Return the bytes that an instruction reads and writes, with the array that they belong to."""
    operands = [body[name] for name in one.operands if name in body]
    free = one.op in _FREE or one.op.endswith("-done") or one.target in _NAMES
    if free or not one.sizes:
        return []
    if one.op in ("dynamic-slice", "slice", "gather"):
        return [(one.bytes, one), *((one.bytes, source) for source in operands[:1])]
    if one.op in ("copy-start", "slice-start"):
        # The tuple is (copy, source, flag) or (source, slice, flag).
        made = dataclasses.replace(one, sizes=one.sizes[:1], near=one.near[:1])
        if one.op == "slice-start":
            made = dataclasses.replace(one, sizes=one.sizes[-2:-1], near=one.near[-2:-1])
        return [(made.bytes, made), *((made.bytes, source) for source in operands[:1])]
    if one.op == "dynamic-update-slice":
        return [(operands[1].bytes, one), (operands[1].bytes, operands[1])]
    if one.calls in bodies:
        read = [
            (min(reads(one.calls, number), body[name].bytes), body[name])
            for number, name in enumerate(one.operands)
            if name in body
        ]
        return [*read, (_written(bodies, one), one)]
    return [(one.bytes, one), *((source.bytes, source) for source in operands)]


def _reads(bodies, computation: str, parameter: int) -> int:
    """Return the bytes that a fused computation reads of the parameter of a number."""
    body = bodies[computation]
    names = {one.name for one in body.values() if one.parameter == parameter}
    total = 0
    for one in body.values():
        if not names & set(one.operands):
            continue
        if one.op == "bitcast":
            names.add(one.name)
        elif one.op in ("dynamic-slice", "slice", "gather"):
            total += one.bytes
        elif one.op == "dynamic-update-slice" and one.operands[0] in names:
            pass  # an update in place does not read the rest of the array
        elif one.op == "tuple" or one.op in KINDS:
            pass  # passed on to a collective that runs at the same time
        elif one.calls in bodies:
            read = sum(
                _reads(bodies, one.calls, k) for k, name in enumerate(one.operands) if name in names
            )
            total += read
            if not read:
                names.add(one.name)  # a fusion that only contains a bitcast
        else:
            return 1 << 62
    return total


def _written(bodies, one: Instruction) -> int:
    """Return the bytes that a fusion writes; an update in place writes only the update."""
    body = bodies[one.calls]
    root = next((inner for inner in body.values() if inner.root), None)
    if root is None:
        return one.bytes
    if root.op == "tuple":
        made = (body[name] for name in root.operands if name in body)
        return sum(_update(body, inner) for inner in made if inner.op not in ("parameter", *KINDS))
    return _update(body, root)


def _update(body: dict[str, Instruction], one: Instruction) -> int:
    return _size(body, one.operands[1]) if one.op == "dynamic-update-slice" else one.bytes


def _size(body: dict[str, Instruction], name: str) -> int:
    return body[name].bytes if name in body else 0


def _parse(hlo: str) -> dict[str, dict[str, Instruction]]:
    """Return the instructions of each computation, by name."""
    bodies: dict[str, dict[str, Instruction]] = {}
    for computation, line in computations(hlo):
        match = _INSTRUCTION.match(line)
        if match:
            one = _instruction(match)
            bodies.setdefault(computation, {})[one.name] = one
    return bodies


def _instruction(match: re.Match) -> Instruction:
    hlo_type, rest = _split_type(match["rest"])
    op, _, tail = rest.partition("(")
    inside = tail[: _closing(tail)]
    calls = re.search(r"calls=%?([\w.\-]+)", tail)
    path, target = _PATH.search(tail), _TARGET.search(tail)
    arrays = _ARRAY.findall(hlo_type)
    return Instruction(
        root=bool(match["root"]),
        name=match["name"],
        op=op,
        sizes=tuple(array_bytes(array) for array, _ in arrays),
        near=tuple("S(1)" in layout for _, layout in arrays),
        operands=tuple(_NAME.findall(inside)),
        calls=calls[1] if calls else "",
        parameter=int(inside) if op == "parameter" else -1,
        path=path[1] if path else "",
        target=target[1] if target else "",
    )


def _split_type(text: str) -> tuple[str, str]:
    """Split an instruction after its type, which may be a tuple in parentheses."""
    end = 1 + _closing(text[1:]) + 1 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str) -> int:
    """Return the index of the parenthesis that closes the one opened just before the text."""
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return index
    return len(text)
