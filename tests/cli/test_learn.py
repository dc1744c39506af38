"""The `learn` verb: from a folder of captioned pictures to search, at toy size."""

import errno
import json
import os
import shlex
import shutil
import signal

import pytest
from captioned import picture, write_pictures
from tiny_models import tiny_config

from sir_jax.cli.main import main as sir_jax
from sir_jax.learning import Wish
from sir_jax.runtime.console import Terminated
from sir_jax.runtime.interrupt import Interrupted

WORDS = {"a.png": "oui", "b.png": "éléphant", "c.png": "tsé", "d.png": "lune"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    small = lambda corpus: tiny_config(**{"data.corpus": corpus})  # noqa: E731
    monkeypatch.setattr("sir_jax.learning.setup.small_pair", small)
    missing = {"mbrola": "it is not here"}
    monkeypatch.setattr("sir_jax.learning.stages.missing_engines", lambda: missing)
    monkeypatch.setattr("sir_jax.learning.stages.default_workers", lambda: 1)


def write_folder(place):
    images = write_pictures(place / "photos", list(WORDS))
    lines = [f"{name},{words}" for name, words in WORDS.items()]
    (place / "names.csv").write_text("\n".join(["file,fr", *lines]) + "\n")
    return images


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIR_JAX_DATA", raising=False)
    write_folder(tmp_path)
    return tmp_path


def learn(*more):
    options = ["--images=photos", "--captions=names.csv", "--languages=fr", "--out=found"]
    return sir_jax(["learn", *options, "--voices=2", "--steps=40", *more])


def check_chosen(printed) -> None:
    """Check what is printed before training, and where that was preempted."""
    assert printed.err.endswith(
        "stopped by SIGTERM at step 7 of 40; saved: the same command goes on from there\n"
    )
    lines = printed.out.splitlines()
    assert lines[0] == "4 pictures with 4 captions: 4 in fr"
    assert lines[1] == "cores = 1: of this machine"
    assert "engines = espeak: eSpeak NG speaks every language" in lines
    assert "not flite: it speaks none of fr" in lines
    assert "not mbrola: it is not here" in lines
    assert "voices = 2: as asked for" in lines and "steps = 40: as asked for" in lines
    assert "batch_size = 4: there are 4 pictures, which differ within a step" in lines
    assert any(line.startswith("buckets = 16000: clips last 0.") for line in lines)


def check_gone_on(printed) -> None:
    """Check what is printed from the corpus, which is there, to an interrupt before the release."""
    assert printed.err.endswith("\ninterrupted; the same command goes on from there\n")
    lines = printed.out.splitlines()
    stages = [line for line in lines if line.startswith("[")]
    assert stages[0] == "[1 of 5] corpus: done already, skipped"
    assert [line.split()[3] for line in stages[1:]] == ["train:", "evaluate:", "release:"]
    assert all(line.endswith(" left in all") for line in stages[1:])
    assert "steps = 40: as chosen when this was begun" in lines


def check_answers(out, capfd) -> None:
    """Give both commands of the end as they are printed."""
    by_voice, by_typing = (shlex.split(x) for x in out.splitlines() if "sir-jax search" in x)
    for command in (by_voice, by_typing):
        assert command[2:4] == ["--model=found/release", "--index=found/index"]
    assert by_voice[4:] == ["--query=YOU.wav"] and by_typing[4].removeprefix("--say=") in [
        *WORDS.values()
    ]
    assert sir_jax([*by_typing[1:], "--json", "-k", "4", "--voices=2"]) == 0
    (answer,) = json.loads(capfd.readouterr().out)
    assert sorted(hit["id"] for hit in answer["hits"]) == list(WORDS)
    assert answer["language"] == "fr"


def test_it_stops_goes_on_and_finds(place, monkeypatch, capfd):
    def stop(*arguments):
        raise KeyboardInterrupt

    def preempt(*arguments):
        raise Interrupted(7, 40, signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("sir_jax.learning.stages.train", preempt)
        assert learn() == 128 + signal.SIGTERM
    check_chosen(capfd.readouterr())

    with monkeypatch.context() as patched:
        patched.setattr("sir_jax.learning.stages.make_release", stop)
        assert learn() == 130
    check_gone_on(capfd.readouterr())
    record = json.loads((place / "found/learn.json").read_text())
    assert list(record["done"]) == ["corpus", "train", "evaluate"]
    assert record["chosen"]["buckets"] == [16_000] and record["asked"]["steps"] == 40
    # All pictures are in training; the test asks for them by other voices.
    results = record["done"]["evaluate"]["results"]
    assert list(results) == ["test"] and results["test"]["s2i_gallery"] == 4
    steps = (place / "found/run/metrics.jsonl").read_text()

    assert learn() == 0
    out = capfd.readouterr().out
    assert out.count("done already, skipped") == 3 and "planning" not in out
    assert "[5 of 5] index: about 1 min left in all" in out
    assert (place / "found/run/metrics.jsonl").read_text() == steps
    recalls = [100 * results["test"][f"s2i_r1{end}"] for end in ("", "_low", "_high")]
    expected = "eSpeak NG, voices that no training heard: R@1 {:.1f} % [{:.1f}, {:.1f}], R@10 100.0"
    assert expected.format(*recalls) in out
    card = (place / "found/release/README.md").read_text()
    assert "# found" in card and "split test" in card and "40 steps of 4 pairs" in card

    check_answers(out, capfd)

    assert learn() == 0
    out = capfd.readouterr().out
    assert out.count("done already, skipped") == 5 and "planning" not in out

    # Another picture without a caption changes the index alone.
    picture(9).save(place / "photos/e.png")
    assert learn("--tolerance=0.5") == 2  # asked otherwise
    assert "tolerance is None there and 0.5 here; choose another out" in capfd.readouterr().err
    assert learn() == 0
    out = capfd.readouterr().out
    assert out.count("done already, skipped") == 3 and "found/index: 5 pictures" in out

    # Other words are another corpus.
    (place / "names.csv").write_text("file,fr\na.png,ane\nb.png,vache\nc.png,chat\nd.png,os\n")
    assert learn() == 2
    assert "pictures or captions have changed since it was begun" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("stop", "status", "line"),
    [(Terminated, 143, "stopped by SIGTERM"), (KeyboardInterrupt, 130, "interrupted")],
)
def test_a_signal_in_any_stage_is_one_line(stop, status, line, place, monkeypatch, capsys):
    def stopped(*arguments):
        raise stop

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sir_jax.learning.stages.prepare_captions", stopped)
    assert learn() == status
    assert capsys.readouterr().err == f"\n{line}; the same command goes on from there\n"
    assert signal.getsignal(signal.SIGTERM) is before


def one_picture(place):
    for name in list(WORDS)[1:]:
        (place / "photos" / name).unlink()
    (place / "names.csv").write_text("file,fr\na.png,oui\n")


def no_picture(place):
    shutil.rmtree(place / "photos")
    (place / "photos").mkdir()


def other_content(place):
    (place / "found").mkdir()
    (place / "found/thesis.tex").write_text("")


def damaged(place):
    (place / "found").mkdir()
    (place / "found/learn.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "more", "line"),
    [
        (None, ["--captions=no.csv"], "captions 'no.csv': no such file; give a CSV, TSV or JSON"),
        (None, ["--images=no"], "images 'no': no such folder"),
        (no_picture, [], "images 'photos' holds no picture; give a folder of JPEG or PNG files"),
        (one_picture, [], "images 'photos': only 1 picture has a caption, a.png; give 2 or more"),
        (None, ["--languages=tlh"], "languages: eSpeak NG does not speak the language 'tlh'"),
        (None, ["--from=nothing"], "model nothing is no folder; give a folder that"),
        (None, ["--out=photos/found"], "out 'photos/found' lies in the pictures' folder 'photos'"),
        (other_content, [], "out 'found' holds thesis.tex and no learn.json; choose another fold"),
        (damaged, [], "found/learn.json cannot be read (JSONDecodeError"),
        (None, ["--out=names.csv"], "out names.csv: names.csv is a file; choose another folder"),
        (None, ["--hold_out_pictures=50"], "hold_out_pictures is 50, which leaves 1 of 4 pictures"),
        (None, ["--hold_out_pictures=61"], "hold_out_pictures is 61; give 0 to 60 percent"),
        (None, ["--steps=0"], "steps is 0; give 1 or more"),
        (None, ["--batch_size=1"], "batch_size is 1; give 2 or more"),
        (None, ["--minutes=0"], "minutes is 0; give a number above 0"),
        (None, ["--minutes=inf"], "minutes is inf; give a number above 0"),
        (None, ["--engines=hal"], "there is no speech synthesiser 'hal'; choose among espeak"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_made(change, more, line, place, capsys):
    if change:
        change(place)
    before = sorted(place.rglob("*"))
    assert learn(*more) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sir-jax learn: {line}") and said.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_a_full_disk_is_one_line(place, monkeypatch, capsys):
    usage = shutil.disk_usage(place)._replace(free=1_000)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        assert learn() == 2
    said = capsys.readouterr().err
    assert "has 0.00 GB left, and 16 recordings take about 0.00 GB; make room" in said

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sir_jax.learning.stages.prepare_captions", full)
    assert learn() == 2
    said = capsys.readouterr().err
    assert said == (
        "sir-jax learn: [Errno 28] No space left on device; mend that, and the same command goes "
        "on from there\n"
    )


def test_a_wish_is_plain_data():
    asked = Wish("photos", "~/found", languages=("fr",)).asked()
    assert json.loads(json.dumps(asked)) == asked and asked["languages"] == ["fr"]
    assert asked["captions"] == "" and asked["images"].endswith("/photos")
