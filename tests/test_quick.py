"""The quick choice of tests touches every room, and names no file that is gone."""

from pathlib import Path

TESTS = Path(__file__).parent


def test_quick_touches_every_room(request):
    conftest = request.config.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    rooms = {path.parent.name for path in (TESTS.parent / "sir_jax").glob("*/__init__.py")}
    quick = {pattern.partition("/")[0] for pattern in conftest.QUICK if "/" in pattern}
    assert rooms <= quick, f"not in QUICK of tests/conftest.py: {sorted(rooms - quick)}"
    assert [pattern for pattern in conftest.QUICK if not list(TESTS.glob(pattern))] == []
