"""`sir-jax train` in real processes that are killed without warning.

At each change a job of two processes is killed and gone on with (runtime/test_distributed.py), and
a run is stopped at several points of its loop (test_loop.py, test_preemption.py).
"""

import json
import signal
import time

import numpy as np
import pytest
from cli_helpers import finish, start
from tiny_models import tiny_config

from sir_jax.config.compare import to_json
from sir_jax.inference.workdirs import restore_params
from sir_jax.training.metrics import JSONL, read_records

pytestmark = pytest.mark.release

STEPS, KILLS = 40, 1
CONFIG = """
import json
from sir_jax.config.compare import from_json

def get_config(arg=""):
    return from_json(json.loads('''{}'''))
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Return a folder with a small config file and a small corpus."""
    root = tmp_path_factory.mktemp("kill")
    made = finish(
        start(
            "data",
            "spoken_scenes",
            "--engines=espeak",
            "--level=one",
            "--train_images=16",
            "--val_images=4",
            "--test_images=4",
            "--captions=2",
            "--image_size=32",
            f"--data_dir={root}/data",
        )
    )
    (corpus,) = {
        word.strip(",.:'")
        for word in made.split()
        if "spoken_scenes/one-" in word and "/data/" not in word
    }
    cfg = tiny_config(
        **{
            "data.corpus": corpus,
            "data.data_dir": f"{root}/data",
            "data.buckets": (16_000,),
            "data.groups": 2,  # of four batches an epoch, all but the first are in groups
            "train.steps": STEPS,
            "train.eval_every": 20,
            "train.checkpoint_every": 2,
            "train.compile_cache": f"{root}/compiled",
        }
    )
    (root / "tiny.py").write_text(CONFIG.format(json.dumps(to_json(cfg))))
    return root


def train(root, workdir):
    return start("train", f"--config={root}/tiny.py", f"--workdir={workdir}")


def sequence(workdir):
    return [
        {name: value for name, value in record.items() if not name.startswith("perf/")}
        for record in read_records(workdir / JSONL)
    ]


@pytest.fixture(scope="module")
def whole(setting):
    """Return the workdir of an uninterrupted run."""
    finish(train(setting, setting / "whole"))
    assert len(sequence(setting / "whole")) == STEPS + STEPS // 20
    return setting / "whole"


def test_sigkill_at_random_moments_changes_nothing(setting, whole):
    seed = time.time_ns()
    rng = np.random.default_rng(seed)
    workdir, told = setting / "killed", f"seed {seed}"
    marks = np.sort(rng.choice(np.arange(1, STEPS), KILLS, replace=False))
    for mark in marks:
        process = train(setting, workdir)
        # The kill comes at any point of an update or of an asynchronous save.
        while process.poll() is None:
            records = read_records(workdir / JSONL)
            if records and records[-1]["step"] >= mark:
                break
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), f"{told}: {out}"
    out = finish(train(setting, workdir))
    assert sequence(workdir) == sequence(whole), f"{told}: {out}"
    assert sequence(workdir)[-1]["step"] == STEPS
    for which in ("best", "last"):
        ours, theirs = (restore_params(d, which)[1] for d in (workdir, whole))
        np.testing.assert_array_equal(ours["temperature"], theirs["temperature"], err_msg=told)


def test_sigterm_saves_and_prints_how_to_resume(setting, whole):
    workdir = setting / "stopped"
    process = train(setting, workdir)
    while process.poll() is None and not read_records(workdir / JSONL):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, out
    command = f"sir-jax train --config={setting}/tiny.py --workdir={workdir}"
    assert f"of {STEPS}; saved. To go on, run the same command: {command}\n" in out
    assert "stopped by SIGTERM at step " in out
    finish(train(setting, workdir))
    assert sequence(workdir) == sequence(whole)


def test_another_config_is_refused_in_one_line(setting, whole):
    process = start(
        "train", f"--config={setting}/tiny.py", f"--workdir={whole}", "--config.model.embed_width=8"
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    (line,) = [line for line in out.splitlines() if line.startswith("sir-jax train:")]
    assert "another config: model.embed_width is 16 there and 8 here; choose another" in line
    assert "Traceback" not in out
