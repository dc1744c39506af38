"""The `quickstart` verb, with its real stages at toy size."""

import json
import os
import shlex
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.cli import main as cli
from sir_jax.cli import quickstart
from sir_jax.data.media.synthesis.engines import missing_engines

CONFIG = """
from sir_jax.config.presets import base_config


def get_config(arg=""):
    c = base_config("tiny", "tiny")
    c.data.corpus = "spoken_scenes/one-i16-d4-t6-c2-v64-p32-s7"
    c.data.update(buckets=(32_000,), image_size=16, batch_size=8)
    c.model.speech.update(width=32, layers=1, heads=2, mlp_width=64, pos_kernel=8,
                          conv_width=(8, 8, 16, 32), pos_groups=4)
    c.model.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.model.head.update(heads=2, mlp_width=64)
    c.model.speech.dropout = c.model.head.dropout = 0.0
    c.model.embed_width = 16
    c.mesh.data = 1
    c.optim.warmup_steps = 1
    c.train.update(steps=2, eval_every=2, checkpoint_every=2, log_every=1, num_threads=1)
    return c
"""


def run_quickstart(tmp_path, *more):
    config = tmp_path / "toy.py"
    config.write_text(CONFIG)
    return cli.main(
        [
            "quickstart",
            f"--workdir={tmp_path / 'run'}",
            f"--data_dir={tmp_path / 'data'}",
            f"--config={config}",
            *more,
        ]
    )


@pytest.fixture
def verbs_here(monkeypatch):
    """Run every verb in this process: each of them imports for seconds elsewhere."""

    def run_here(arguments):
        print(f"\n$ {shlex.join(['sir-jax', *arguments])}", flush=True)
        return cli.main(arguments)

    monkeypatch.setattr(quickstart, "run_verb", run_here)
    # What this process logs stays as it is.
    monkeypatch.setattr("sir_jax.cli.model.train.silence_failed_saves", lambda: None)


@pytest.mark.slow
def test_every_stage_runs_and_a_second_run_uses_what_is_there(tmp_path, capfd, verbs_here):
    assert run_quickstart(tmp_path) == 0
    out = capfd.readouterr().out
    commands = [line.split()[2] for line in out.splitlines() if line.startswith("$ sir-jax")]
    # The other synthesisers that are installed speak, too.
    missing = {name: why for name, why in missing_engines().items() if name in quickstart.TRIED}
    others = [engine for engine in ("flite", "piper") if engine not in missing]
    more = ["data", *("evaluate" for _ in others)] if others else []
    assert commands == ["data", "train", "evaluate", *more, "search"]

    folder = tmp_path / "run" / "demo"
    truth = json.loads((folder / "truth.json").read_text())
    assert len(truth) == 5 == len(set(truth.values()))
    assert len(list((folder / "images").glob("*.png"))) == 6
    for name, picture in truth.items():
        wave, rate = soundfile.read(folder / "queries" / name, dtype="int16")
        assert rate == 16_000 and len(wave) > 8_000 and np.abs(wave).max() > 1_000
        assert len((folder / "queries" / name).with_suffix(".txt").read_text().split()) > 3
        assert (folder / "images" / picture).is_file()
    assert out.count("<- right") >= 4  # 5 of 6 pictures are shown for each of 5 queries
    with Image.open(folder / "grid.png") as image:
        assert image.height > 5 * 160

    # The table comes last as well, with chance and sizes, and the time of each stage.
    end = out[out.rindex("unseen images described by unseen voices") :]
    assert "speech->image" in end and "6 images" in end and "(16.7)" in end
    assert str(folder / "grid.png") in end and "evaluate" in end
    for engine in others:
        assert f"\n{engine}, a voice that no training heard: speech->image R@1 " in end
    assert end.count("\nnot tried: ") == len(missing)

    steps = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert run_quickstart(tmp_path) == 0
    again = capfd.readouterr().out
    assert end.split("\n\n")[0] == again[again.rindex(end[:20]) :].split("\n\n")[0]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == steps

    # Another config's workdir is refused before anything is made.
    assert run_quickstart(tmp_path, "--config.optim.learning_rate=0.5") == 2
    refused = capfd.readouterr()
    assert "optim.learning_rate" in refused.err and "$ sir-jax" not in refused.out


def test_mistakes_are_found_before_anything_is_made(tmp_path, capfd):
    assert run_quickstart(tmp_path, "--config.train.stepz=3") == 2
    assert "train.steps" in capfd.readouterr().err
    assert run_quickstart(tmp_path, "--config.data.corpus=places/one") == 2
    assert "places/one" in capfd.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_failing_stage_ends_it_with_its_status(capfd):
    stages = quickstart.Stages()
    assert stages.run("search", ["search", "--workdir=none", "--query=none.wav", "--images=."]) == 2
    captured = capfd.readouterr()
    assert "search ended with status 2" in captured.err and captured.err.count("\n") == 3
    assert "$ sir-jax search --workdir=none" in captured.out and "search" in stages.table()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, -15)])
def test_a_signal_reaches_the_verb_once(signum, status, tmp_path, capfd):
    # Ctrl-C comes to the verb from the terminal, so here it must not; a SIGTERM is passed on.
    before = signal.getsignal(signum)
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signum))
    timer.start()
    try:
        assert quickstart.run_verb(["evaluate", f"--workdir={tmp_path}"]) == status
    finally:
        timer.join()
    assert signal.getsignal(signum) == before


def test_voices_of_other_engines_speak_of_a_few_pictures(monkeypatch):
    missing: dict[str, str] = {}
    engines = "sir_jax.data.media.synthesis.engines.missing_engines"
    monkeypatch.setattr(engines, lambda: missing)
    demo = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"
    own = "spoken_scenes/one-i2-d2-t200-c1-v64-p128-s0-espeak+flite+piper"
    choose = quickstart.corpus_by_other_engines
    assert choose(demo) == (own, [])
    assert quickstart.splits_by_other_engines(own) == ["test_flite", "test_piper"]
    missing["flite"] = "flite is not here"
    piper = "spoken_scenes/one-i2-d2-t200-c1-v64-p128-s0-espeak+piper"
    assert choose(demo) == (piper, ["flite is not here"])
    missing["piper"] = "piper is not here"
    assert choose(demo) == (
        demo,
        ["flite is not here", "piper is not here"],
    )
    # A corpus that has such splits needs no other.
    assert choose(own) == (own, [])
    assert choose("spoken_coco/karpathy") == (
        "spoken_coco/karpathy",
        [],
    )
    numbers = {"s2i_gallery": 200.0, "s2i_r1": 0.881, "s2i_r1_low": 0.83, "s2i_r1_high": 0.92}
    assert quickstart.described("test_piper", numbers | {"s2i_r10": 0.991}) == (
        "piper, a voice that no training heard: speech->image R@1 88.1 % [83.0, 92.0], "
        "R@10 99.1 % of 200 pictures"
    )


def test_config_file_is_the_one_of_the_repository():
    args, train = quickstart.parse([])
    assert Path(args.config) == Path("configs/demo.py") and "--workdir=runs/demo" in train
