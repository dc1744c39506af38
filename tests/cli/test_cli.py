"""The console script: light import, verbs, one-line errors."""

import subprocess
import sys

import pytest

from sir_jax.cli import bench as bench_main
from sir_jax.cli import data as data_main
from sir_jax.cli import main as cli
from sir_jax.errors import UserError

HEAVY = ("torch", "tensorflow", "transformers", "librosa", "tensorflow_datasets", "grain", "jax")


def test_import_is_light():
    code = f"import sys, sir_jax, sir_jax.cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_training_path_imports_no_other_framework():
    modules = "sir_jax.cli.train, sir_jax.evaluation.evaluate, sir_jax.cli.search"
    code = (
        f"import sys, {modules}\n"
        "print([m for m in ('torch', 'tensorflow', 'transformers', 'librosa') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_usage_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in cli.VERBS)


def test_unknown_verb_is_one_line(capsys):
    assert cli.main(["fly"]) == 2
    assert capsys.readouterr().err == (
        f"sir-jax: no verb 'fly'; choose one of {', '.join(cli.VERBS)}\n"
    )


def test_a_users_mistake_is_one_line_and_status_2(capsys, monkeypatch):
    class Module:
        @staticmethod
        def main(argv):
            raise UserError(f"{argv[0]} is wrong; write right")

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Module)
    assert cli.main(["data", "left"]) == 2
    assert capsys.readouterr().err == "sir-jax data: left is wrong; write right\n"


@pytest.mark.parametrize(
    "words",
    [
        *([verb] for verb in sorted(cli.VERBS)),
        *(["data", action] for action in data_main.ACTIONS),
        *(["bench", name] for name in bench_main.BENCHMARKS),
    ],
    ids=" ".join,
)
def test_everything_has_help(words):
    code = f"import sys; from sir_jax.cli.main import main; sys.exit(main({[*words, '--help']}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert " ".join(["sir-jax", *words]) in out.stdout
