"""The house: which room may import which, and how large rooms, files and functions may be."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sir_jax"
# What is held to sizes: where people read code.
HELD = ("sir_jax", "tests", "launch")

# From the ground up: a room imports from those before it, unless FORBIDDEN says otherwise.
ROOMS = (
    "errors",
    "config",
    "runtime",
    "models",
    "losses",
    "pretrained",
    "data",
    "objective",
    "inference",
    "training",
    "index",
    "evaluation",
    "learning",
    "page",
    "interop",
    "pods",
    "benchmarks",
    "cli",
)

# Who searches must not need what trains.
FORBIDDEN = {
    "index": {"training", "objective"},
    "page": {"training", "objective", "evaluation", "learning"},
    "inference": {"objective"},
    "data": {"models", "losses", "pretrained"},
    "losses": {"runtime", "models", "config"},
    "runtime": {"data"},
}

MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES = 12, 400, 60
LONG_FUNCTIONS = {"sir_jax/training/loop.py:run_loop"}


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name below `sir_jax`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def held_files() -> list[Path]:
    """Return every file whose size is held, sorted."""
    return sorted(path for folder in HELD for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                name if name.removeprefix("sir_jax.") in known else node.module
                for name in (f"{node.module}.{alias.name}" for alias in node.names)
            }
    return {name.removeprefix("sir_jax.") for name in found if name.startswith("sir_jax.")}


def room_of(module: str) -> str:
    """Return the first name of a module."""
    return module.partition(".")[0]


def test_imports_run_down_the_table():
    known = modules()
    arrows = []
    for module, path in sorted(known.items()):
        room = room_of(module)
        if room in ("", "base_config"):  # the public API; the old name of the presets
            continue
        for target in sorted(imports(path, known)):
            other = room_of(target)
            if other == room:
                continue
            up = other not in ROOMS or ROOMS.index(other) > ROOMS.index(room)
            if up or other in FORBIDDEN.get(room, ()):
                arrows.append(f"{module} -> {target}")
    assert arrows == []


def test_no_circle_of_modules():
    known = modules()
    graph = {module: imports(path, known) & known.keys() for module, path in known.items()}
    done, path = set(), []

    def visit(module):
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for target in sorted(graph[module]):
                visit(target)
            path.pop()
            done.add(module)

    for module in sorted(graph):
        visit(module)
    assert done == set(graph)


def test_rooms_are_small():
    rooms = {}
    for path in held_files():
        if path.name != "__init__.py":
            rooms.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path.name)
    assert {room: len(files) for room, files in rooms.items() if len(files) > MOST_FILES} == {}


def test_files_and_functions_are_short():
    long = []
    for path in held_files():
        where, text = path.relative_to(ROOT).as_posix(), path.read_text()
        if text.count("\n") > MOST_LINES:
            long.append(where)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_FUNCTION_LINES and f"{where}:{node.name}" not in LONG_FUNCTIONS:
                    long.append(f"{where}:{node.name} ({lines})")
    assert long == []


def test_linen_is_in_models_alone():
    users = [
        module
        for module, path in modules().items()
        if re.search(r"\blinen\b", path.read_text()) and room_of(module) != "models"
    ]
    assert users == []
