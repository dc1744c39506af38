"""`launch/restart.py`, on a stand-in for `sir-jax` that steps and saves as training does."""

import importlib.util
import sys

import pytest
from launch_helpers import ROOT

# Compiles for longer where nothing is kept; writes each step down; saves on SIGTERM.
STAND_IN = """
import json, pathlib, signal, sys, time
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
workdir = pathlib.Path(options["workdir"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
workdir.mkdir(parents=True, exist_ok=True)
metrics, sums = workdir / "metrics.jsonl", workdir / "goodput.json"
step = len(metrics.read_text().splitlines()) if metrics.exists() else 0
before = json.loads(sums.read_text())["seconds"]["compile"] if sums.exists() else 0.0
spent = 0.1 if options["config.train.compile_cache"] and step else 0.6
time.sleep(spent)
sums.write_text(json.dumps({"seconds": {"compile": before + spent}}))
while True:
    step += 1
    with open(metrics, "a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
    time.sleep(0.02)
"""


def load():
    spec = importlib.util.spec_from_file_location("restart", ROOT / "launch/restart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_that_fails_is_named(tmp_path):
    script = load()
    with pytest.raises(SystemExit, match="step 3 did not come; see .*kept-nowhere.log"):
        script.main([f"--folder={tmp_path}/runs", "--program=false", "--", "--config=any.py"])


def test_seconds_to_the_next_step_with_and_without_kept_programs(tmp_path, capsys):
    script, program = load(), tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    script.main(
        [
            f"--folder={tmp_path}/runs",
            "--processes=1",
            f"--program={sys.executable} {program}",
            "--",
            "--config=any.py",
        ]
    )
    nowhere, kept = (line.split(": ")[1].split() for line in capsys.readouterr().out.splitlines())
    assert (float(nowhere[7]), float(kept[7])) == (0.6, 0.1)
    assert float(nowhere[2]) >= 0.6 and float(kept[2]) >= 0.1
