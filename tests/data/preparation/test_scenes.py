"""The verb `data spoken_scenes`: interrupts, locks and mistakes."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from sir_jax.cli import main as cli
from sir_jax.data.corpus import open_corpus

OPTIONS = (
    "data spoken_scenes --engines=espeak --level=one --train_images=200 --val_images=4 "
    "--test_images=6 --captions=2 --voices=12 --image_size=32 --workers=1"
).split()
# A background job of a shell, such as CI, may ignore SIGINT, and its children inherit that.
SCRIPT = (
    "import signal, sys; from sir_jax.cli.main import main; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
)
NAME = "spoken_scenes/one-i200-d4-t6-c2-v12-p32-s0"


def start(root):
    """Start the verb in its own process group and wait until it has made another chunk."""
    count = len(finished(root)) + 1
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *OPTIONS, f"--data_dir={root}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(finished(root)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    return process


def finished(root):
    return {p.name: p.stat().st_mtime_ns for p in (root / NAME).glob("chunks-*/*.chunk")}


def run(root, capsys, *more):
    status = cli.main([*OPTIONS, f"--data_dir={root}", *more])
    return status, capsys.readouterr()


def test_kill_and_interrupt_lose_no_finished_chunk(tmp_path, capsys):
    process = start(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    kept = finished(tmp_path)
    # There are eleven chunks, so that the second start is far from its end when the signal comes.
    assert 1 <= len(kept) < 5

    process = start(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    err = process.communicate()[1]
    assert process.returncode == 130
    assert "stopped; run the same command again" in err and "Traceback" not in err
    assert all(finished(tmp_path)[name] == stamp for name, stamp in kept.items())

    status, printed = run(tmp_path, capsys)
    assert status == 0
    lines = printed.out.splitlines()
    assert lines[-1].startswith(f"{NAME} is ready after ")
    assert lines[-1].endswith(f"in {tmp_path / NAME / '1.0.0'}")
    assert "level one: 12,960 distinct scenes; 8 of 8 accents" in printed.out
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["split", "images", "captions"],
        ["train", "200", "400"],
        ["val", "4", "8"],
        ["test", "6", "12"],
    ]
    corpus = open_corpus(NAME, tmp_path)
    assert len(corpus.splits["train"].index) == 400
    assert not list((tmp_path / NAME).glob("chunks-*"))


def test_two_commands_cannot_make_one_corpus(tmp_path, capsys):
    (tmp_path / NAME).mkdir(parents=True)
    with (tmp_path / NAME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, printed = run(tmp_path, capsys)
    assert status == 2
    assert printed.err.startswith(
        "sir-jax data spoken_scenes: another process is making 'one-i200-"
    )


@pytest.mark.parametrize(
    "option, message",
    [
        ("--level=hard", "level 'hard' is unknown"),
        ("--train_images=99999", "level one gives at most 8429 distinct train scenes"),
        ("--voices=1", "voices is 1; choose a number from 12 to 144"),
        ("--workers=-1", "workers is -1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, option, message):
    status, printed = run(tmp_path, capsys, option)
    assert status == 2
    assert message in printed.err and printed.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.chunk"))


def test_unwritable_folder_is_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    status, printed = run(blocked, capsys)
    assert status == 2
    assert "cannot write there" in printed.err and "choose another data_dir" in printed.err


def test_missing_synthesiser_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    status, printed = run(tmp_path, capsys)
    assert status == 2
    assert "pip install 'sir_jax[synth]'" in printed.err


def test_mistyped_option_stops_with_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "spoken_scenes", "--voice=20"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --voice=20" in capsys.readouterr().err
