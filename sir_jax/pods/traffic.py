"""Who moves the bytes of a compiled program: which module, which pass, which kind of operation.

A compiled instruction still carries the named scopes that it was traced in: Flax names every
module, the objective its terms, the train step its parts. A fusion has the scopes of its last
operation, so that an addition fused with a layer norm counts for whichever the compiler put last.
"""

import re
from collections import Counter, defaultdict
from typing import NamedTuple

from sir_jax.pods.collectives import KINDS
from sir_jax.pods.loops import Instruction, moved_bytes

# (module, regex of the scopes); the first that is found counts.
MODULES: tuple[tuple[str, str], ...] = (
    ("optimiser", r"/(optimizer|teacher_update)/"),
    ("queue", r"/queue/"),
    ("attention: logits", r"/(logits|flash)/"),
    ("attention: layouts", r"/attend/"),
    ("attention: projections", r"attention/(query|key|value|out)/"),
    ("layer norms", r"norm/"),
    ("feed-forward", r"/mlp/"),
    ("positional convolution", r"/positional_conv/"),
    ("convolution front end", r"/frontend/"),
    ("speech, the rest", r"/(speech|speech_head|speech_projection)/"),
    ("image, the rest", r"/(image|image_head|image_projection)/"),
    ("fusion, the rest", r"/(fusion|denoise_\w+|match_head|late|pool_\w+)/"),
    ("losses", r"/(sic|sim|cmd)/"),
)
REST = "the rest"

PASSES = ("forward", "backward", "again")

_SLICES = frozenset(
    ("slice", "slice-start", "dynamic-slice", "dynamic-update-slice", "pad", "concatenate")
)
# (kind, operations): an instruction, or a fusion that holds such an operation, is of that kind; the
# first counts.
_KINDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("products", frozenset(("convolution", "dot"))),
    ("kernels", frozenset(("custom-call",))),
    ("gathers", frozenset(("gather", "scatter"))),
    ("reductions", frozenset(("reduce", "reduce-window", "sort"))),
    ("slices", _SLICES),
    # Last: the compiler puts parts of a collective into fusions that run at the same time.
    ("between chips", frozenset(KINDS) | {f"{kind}-start" for kind in KINDS}),
)
# A fusion of these alone, or one of these, is a copy.
_COPIES = frozenset(
    ("copy", "copy-start", "transpose", "bitcast", "reshape", "parameter", "tuple", "convert")
)


class Traffic(NamedTuple):
    """Bytes by what moves them."""

    modules: dict[str, dict[str, int]]  # by module and one of `PASSES`
    kinds: dict[str, int]
    main: dict[str, int]  # by module, of the chip's main memory alone

    @property
    def total(self) -> int:
        """Return the bytes of the whole program."""
        return sum(self.kinds.values())


def read_traffic(hlo: str) -> Traffic:
    """Count what a program reads and writes in a step, by module and by kind of operation.

    Args:
      hlo: text of the compiled program, with the scopes that it was traced in.

    Returns:
      All bytes of all instructions, each counted as often as it runs: as XLA counts, those that
      the compiler keeps in the chip's vector memory, too, which take less time; `main` has none.
    """
    modules, kinds, main = defaultdict(Counter), Counter(), Counter()
    for moved in moved_bytes(hlo):
        module, size = module_of(moved.path), moved.bytes * moved.times
        modules[module][pass_of(moved.path)] += size
        kinds[kind_of(moved.one, moved.inside)] += size
        main[module] += moved.main * moved.times
    plain = {name: dict(parts) for name, parts in modules.items()}
    return Traffic(plain, dict(kinds), dict(main))


def module_of(path: str) -> str:
    """Return the module of a path of scopes.

    Example:
      >>> module_of("jit(f)/jvp(Model)/speech/layers_03/mlp/up/dot_general")
      'feed-forward'
    """
    # A transformation wraps the outermost scope: `jvp(sim)`.
    scopes = f"/{re.sub('[()]', '/', path)}/"
    return next((name for name, known in MODULES if re.search(known, scopes)), REST)


def pass_of(path: str) -> str:
    """Return the pass of a path of scopes: 'again' is what `model.remat` computes a second time."""
    if "rematted_computation" in path:
        return "again"
    return "backward" if "transpose(" in path else "forward"


def kind_of(one: Instruction, inside: tuple[Instruction, ...]) -> str:
    """Return the kind of an instruction; for a fusion give the instructions inside."""
    ops = {inner.op for inner in inside} or {one.op}
    for kind, members in _KINDS:
        if ops & members:
            return kind
    return "copies" if ops <= _COPIES else "element by element"


def describe_traffic_by(traffic: Traffic, least: float = 0.005) -> list[str]:
    """Return a table of who moves the bytes, largest first, as lines of text.

    Args:
      traffic: from `read_traffic`.
      least: share of all bytes below which a line is left out.
    """
    whole = Counter({module: sum(parts.values()) for module, parts in traffic.modules.items()})
    names = "".join(f"{name:>10}" for name in (*PASSES, "main"))
    lines = [f"  {'GB moved by':<26}{'all':>9}{'':6}{names}"]
    for module, size in whole.most_common():
        if size >= least * traffic.total:
            parts = (traffic.modules[module].get(name, 0) for name in PASSES)
            parts = *parts, traffic.main.get(module, 0)
            cells = "".join(f"{part / 1e9:>10.2f}" for part in parts)
            lines.append(f"    {module:<24}{_cell(size, traffic.total)}{cells}")
    lines.append("  of all, by kind:")
    for kind, size in Counter(traffic.kinds).most_common():
        if size >= least * traffic.total:
            lines.append(f"    {kind:<24}{_cell(size, traffic.total)}")
    return lines


def _cell(size: int, total: int) -> str:
    return f"{size / 1e9:>9.2f}{100 * size / total:>4.0f} %"
