"""What sir_jax takes from other packages by private names: there today, and what if it goes."""

import ast
import re
import sys
from pathlib import Path

import jax
import pytest
from tensorboardX import SummaryWriter

import sir_jax
from sir_jax.errors import UserError
from sir_jax.runtime import private

PACKAGE = Path(sir_jax.__file__).parent


def test_names_are_there_in_the_installed_versions(tmp_path):
    jax.devices()
    assert private.backends_exist() is True
    state = private.coordination()
    assert state.client is None and state.coordinator_address is None
    assert (state.process_id, state.num_processes) == (0, 1)
    board = SummaryWriter(str(tmp_path))
    assert private.board_is_alive(board)
    board.file_writer.event_writer._worker.stop()
    assert not private.board_is_alive(board)


def test_without_the_name_the_backends_are_taken_not_to_exist(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.xla_bridge", None)
    assert private.backends_exist() is False


@pytest.mark.parametrize("gone", ["the module", "a field"])
def test_without_the_coordination_several_processes_stop_with_one_line(monkeypatch, gone):
    from jax._src import distributed

    if gone == "the module":
        monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    else:
        monkeypatch.setattr(distributed, "global_state", object())
    with pytest.raises(UserError) as error:
        private.coordination()
    line = str(error.value)
    assert line.startswith(f"jax {jax.__version__} does not let several processes talk without ")
    assert line.endswith("; install another version of jax, or give distributed=off")
    assert "\n" not in line


def test_without_its_thread_a_board_is_taken_to_be_alive():
    assert private.board_is_alive(object()) is True


def test_no_other_module_takes_private_names_of_other_packages():
    """`from jax._src import x`, `ocp._x` of an imported package, `a.b._x` of an object."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        # Few files get past this; to parse all of them takes seconds.
        if path.name != "private.py" and re.search(r"(?<!\bself)\._[a-zA-Z]|import _", text):
            where = path.relative_to(PACKAGE).as_posix()
            found += [f"{where}: {name}" for name in private_names(ast.parse(text))]
    assert found == []


def private_names(tree):
    """Yield every private name that a module takes from elsewhere, but for Python's own library."""
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            before = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = before + alias.name
                if name.partition(".")[0] not in {"sir_jax", *sys.stdlib_module_names}:
                    packages.add(alias.asname or alias.name.partition(".")[0])
                    if any(map(is_private, name.split("."))):
                        yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not isinstance(node.value, ast.Name) or node.value.id in packages:
                yield ast.unparse(node)


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in OF_A_TUPLE


# Public methods of every named tuple.
OF_A_TUPLE = {"_asdict", "_replace", "_fields"}


def test_the_search_for_private_names_finds_them():
    text = """
import argparse, jax, orbax.checkpoint as ocp
from jax._src import xla_bridge
from tensorboardX import SummaryWriter
def f(self, one: argparse._ActionsContainer): self._x, one._y, one._replace(a=1), jax._src.core
ocp._hidden(SummaryWriter("a").file_writer._worker)
"""
    assert sorted(private_names(ast.parse(text))) == [
        "SummaryWriter('a').file_writer._worker",
        "jax._src",
        "jax._src.xla_bridge",
        "ocp._hidden",
    ]
