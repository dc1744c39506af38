"""`launch/attention_bytes.py`: what one attention layer moves, by a compiler's count."""

import importlib.util

import jax
import pytest
from launch_helpers import ROOT

from sir_jax.pods.topology import Topology
from sir_jax.runtime.sharding import make_mesh


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("bytes", ROOT / "launch/attention_bytes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = {"small": (24, 16, 2, 8, False), "small-gradients": (24, 16, 2, 8, True)}
    monkeypatch.setattr(module, "CASES", cases)
    monkeypatch.setattr(module, "ITEMS", 2)
    return module


def test_every_case_is_compiled_with_both_forms(script, monkeypatch, capsys):
    mesh = make_mesh(dict(data=2, fsdp=1, tensor=1), jax.devices()[:2])
    monkeypatch.setattr(Topology, "mesh", lambda topology, sizes: mesh)
    asked, count = [], script.bytes_moved

    def counted(case, mesh, form):
        asked.append((case, getattr(form, "always", form)))
        return count(case, mesh, "xla") / (1 + (form != "xla"))

    monkeypatch.setattr(script, "bytes_moved", counted)
    script.main([])
    forms = "xla", True
    assert asked == [(case, form) for case in script.CASES for form in forms]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["small", "small-gradients"]
    # A pass reads its inputs and its four matrices and writes its result, and more in between.
    least = 2 * (2 * (24 + 16) * 16 + 4 * 16 * 16 + 2 * 24 * 16)
    forward, gradients = (count(case, mesh, "xla") for case in script.CASES)
    assert least < forward < gradients
    script.main(["v5e:2x2", "small"])
    assert asked[-2:] == [("small", "xla"), ("small", True)]


# The table's smallest case by the TPU's compiler, as docs/pods.md has it.
@pytest.mark.release
def test_the_kernel_moves_less_on_a_tpu(script, monkeypatch):
    monkeypatch.undo()  # the script's own number of items
    from sir_jax.models.attention import Flash

    mesh = Topology.parse("v5e:2x2").mesh(dict(data=-1, fsdp=1, tensor=1))
    flash = Flash(mesh, ("data", "fsdp"), ("tensor",), always=True)
    monkeypatch.setattr(script, "CASES", {"vit-b32": (50, 50, 12, 64, True)})
    plain, kernel = (script.bytes_moved("vit-b32", mesh, form) / 1e9 for form in ("xla", flash))
    assert (plain, kernel) == (pytest.approx(0.23, rel=0.1), pytest.approx(0.10, rel=0.1))
