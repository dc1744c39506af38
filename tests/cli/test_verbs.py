"""The console script: its table of verbs, light imports, help, one-line errors."""

import subprocess
import sys

import pytest

from sir_jax.cli import main as cli
from sir_jax.errors import UserError

HEAVY = ("torch", "tensorflow", "transformers", "librosa", "tensorflow_datasets", "grain", "jax")
GROUPS = [verb for verb in cli.VERBS if cli.is_group(verb)]


def loaded_by(code: str) -> str:
    """Return which heavy modules some code loads, in a process of its own."""
    code = f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stderr.strip()


def test_import_is_light():
    assert loaded_by("import sir_jax, sir_jax.cli.main") == "[]"


def test_help_loads_no_jax():
    # Benchmarks are scripts with options of their own.
    verbs = [verb.split() for verb in cli.VERBS if "sir_jax.cli." in cli.VERBS[verb][0]]
    code = f"""
import contextlib
from sir_jax.cli.main import main
for words in {verbs}:
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
"""
    assert loaded_by(code) == "[]"


def test_training_path_imports_no_other_framework():
    modules = "sir_jax.training.loop, sir_jax.evaluation.evaluate, sir_jax.index.index"
    assert loaded_by(f"import {modules}") == "['jax']"


def test_old_scripts_find_the_entry():
    from sir_jax.cli import entry

    assert entry is cli.entry


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_usage_lists_every_verb(group, capsys):
    assert cli.main([*group.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert cli.main(group.split()) == 2
    assert capsys.readouterr().out == text
    inside = [verb for verb in cli.VERBS if verb.rpartition(" ")[0] == group]
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert inside and list(lines) == [verb.split()[-1] for verb in inside]
    assert all(lines[verb.split()[-1]].endswith(cli.VERBS[verb][1]) for verb in inside)


def test_every_verb_of_a_group_has_the_group_in_the_table():
    assert {verb.rpartition(" ")[0] for verb in cli.VERBS} == {"", *GROUPS}


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in GROUPS])
def test_everything_has_help(verb, capsys):
    try:
        status = cli.main([*verb.split(), "--help"])
    except SystemExit as stop:  # argparse ends the process
        status = stop.code
    captured = capsys.readouterr()
    assert status == 0 and captured.err == ""
    assert f"sir-jax {verb}" in captured.out


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("serch", "search"),
        ("data prepar", "data prepare"),
        ("bench vectordb", "bench vector_db"),
        ("pods chek", "pods check"),
        ("verify", "data verify"),
        ("index_folder", "index"),
    ],
)
def test_unknown_verb_is_one_line_with_the_nearest(words, near, capsys):
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().err == (
        f"sir-jax: there is no verb {words!r}; the nearest is {near!r}; `sir-jax --help` lists "
        "all\n"
    )


def test_an_empty_word_is_no_verb(capsys):
    assert cli.main([""]) == 2
    assert "there is no verb ''" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_status_2(capsys, monkeypatch):
    class Module:
        @staticmethod
        def main(argv):
            raise UserError(f"{argv[0]} is wrong; write right")

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Module)
    assert cli.main(["data", "show", "left"]) == 2
    assert capsys.readouterr().err == "sir-jax data show: left is wrong; write right\n"
