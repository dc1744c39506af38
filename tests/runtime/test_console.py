"""What is said on stderr, on a terminal and elsewhere."""

import io
import sys

from sir_jax.runtime import console
from sir_jax.runtime.console import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_elsewhere(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS", 0.0)
    with Progress(3_000, "files") as bar:
        bar.update()
        bar.update(1_999)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "files: 1 of 3,000",
        "files: 2,000 of 3,000",
        "files: 2,000 of 3,000",
    ]
    assert all(line.endswith(" a second)") for line in lines)


def test_one_line_at_the_end_of_short_work_and_none_of_no_work(capsys):
    with Progress(2, "files") as bar:
        bar.update(2)
    assert capsys.readouterr().err.count("\n") == 1
    with Progress(0, "files"):
        pass
    with Progress(2, "files", show=False) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(4, "files") as bar:
        bar.update(3)
    written = sys.stderr.getvalue()
    assert "files:  75%" in written and " 3/4 " in written and "a second" not in written


def test_lines_on_a_terminal_without_tqdm(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with Progress(4, "files") as bar:
        bar.update(3)
    assert sys.stderr.getvalue().startswith("files: 3 of 4 (")
