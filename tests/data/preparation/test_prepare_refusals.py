"""Prepare refuses, says why in one line, and takes what was mended."""

import dataclasses
import fcntl
import json
import subprocess
import sys

import pytest
from broken import picture, wav
from prepare_helpers import layout_of, listed_in

from sir_jax.cli import main as cli
from sir_jax.data.builders.archives import Source
from sir_jax.data.builders.recordings import Counts
from sir_jax.data.corpus import corpus_directory, make_command, open_corpus
from sir_jax.data.preparation.prepare import Options, prepare
from sir_jax.errors import UserError


def small(tmp_path, good=10):
    """Write a manifest of images with one recording each; two recordings are truncated."""
    lines = []
    for i in range(good):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        (tmp_path / f"{i}.wav").write_bytes(wav(seed=i)[: 100 if i in (3, 4) else None])
        lines.append(json.dumps({"image": f"{i}.png", "audio": f"{i}.wav"}))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    return tmp_path / "list.jsonl"


def command(manifest, root, *more):
    words = f"data prepare manifest --manifest {manifest} --name mine --data-dir {root}".split()
    return cli.main([*words, *more])


def test_refused_then_mended_then_accepted(tmp_path, capsys):
    manifest, root = small(tmp_path), tmp_path / "data"
    assert command(manifest, root) == 2
    printed = capsys.readouterr()
    quarantine = root / "manifest/mine/quarantine.jsonl"
    assert printed.err.splitlines()[-1] == (
        "sir-jax data prepare: manifest/mine: 2 of 10 recordings of split 'train' are missing or "
        f"cannot be used (20.00 %, tolerated 1 %); see {quarantine}, mend what you can and run the "
        "same command again, or accept it with a tolerance of 0.2"
    )
    assert "truncated audio      2" in printed.out and "no audio             2" in printed.out
    assert [p["path"] for p in listed_in(root)] == ["3.wav", "3.png", "4.wav", "4.png"]
    assert corpus_directory("manifest/mine", root) is None

    # Files that have changed are read again.
    (tmp_path / "3.wav").write_bytes(wav(seed=3))
    assert command(manifest, root) == 2
    assert [p["path"] for p in listed_in(root)] == ["4.wav", "4.png"]

    assert command(manifest, root, "--tolerance=0.1") == 0
    assert "manifest/mine is ready after" in capsys.readouterr().out
    assert len(open_corpus("manifest/mine", root).splits["train"]) == 9
    # A second call returns the same corpus at once.
    assert command(manifest, root) == 0


def test_counts_below_the_published_ones_are_refused(tmp_path, capsys):
    manifest = small(tmp_path)
    published = {"mine": {"train": Counts(10, 16), "test": Counts(4, 4)}}
    layout = dataclasses.replace(layout_of(manifest), expected=published)
    with pytest.raises(
        UserError, match="4 of 4 recordings of split 'test' are missing .* a tolerance of 1$"
    ):
        prepare(layout, "mine", Source(str(tmp_path)), tmp_path / "data", Options(tolerance=0.6))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "8", "10", "8", "16", "50.00", "%"] in rows
    assert ["test", "0", "4", "0", "4", "100.00", "%"] in rows
    # Images are counted, too: for the train split of SpokenCOCO only their number is published.
    layout = dataclasses.replace(layout, expected={"mine": {"train": Counts(20, 0)}})
    with pytest.raises(UserError, match="12 of 20 pictures of split 'train'"):
        prepare(layout, "mine", Source(str(tmp_path)), tmp_path / "data", Options(tolerance=0.3))


def test_corpus_with_nothing_good_is_refused_at_any_tolerance(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("image,audio\nnone.png,none.wav\n")
    assert command(tmp_path / "list.csv", tmp_path / "data", "--tolerance=1") == 2
    assert "nothing in it can be used" in capsys.readouterr().err


def test_second_process_is_refused(tmp_path, capsys):
    manifest, folder = small(tmp_path), tmp_path / "data/manifest/mine"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command(manifest, tmp_path / "data") == 2
    assert "another process is making 'mine'" in capsys.readouterr().err


# The chunk takes 90 kB, the records take 128 kB.
@pytest.mark.parametrize("size, message", [(3_000, "cannot write '"), (100_000, "the records: ")])
def test_full_disk_is_one_line(tmp_path, size, message):
    manifest = small(tmp_path)

    words = f"data prepare manifest --manifest {manifest} --name mine --tolerance=1".split()
    # The child limits itself, because a process with JAX must not run code between fork and exec.
    # Without -B the limit would also truncate bytecode files, which later imports would read.
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from sir_jax.cli.main import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *words, f"--data-dir={tmp_path / 'data'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert message in last and "File too large" in last and "mend that and run the same com" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        ("flickr9k", "no published corpus 'flickr9k'; choose one of flickr8k_audio"),
        ("flickr8k_audio", "--archives is missing"),
        ("spoken_coco/kapathy --archives=.", "no config 'kapathy'; choose one of karpathy"),
        ("flickr8k_audio --archives=. --root=.", "--root is for `prepare manifest`"),
        ("manifest --archives=.", "--archives is for published corpora"),
        ("manifest --name=x", "--manifest and --name are both needed"),
        ("manifest --name=../x --manifest=list.csv", "name '../x': use letters"),
        ("manifest --name=x --manifest=none.csv", "manifest 'none.csv': no such file"),
        ("manifest --name=x --manifest=list.txt", "give a file in .jsonl or .csv"),
        ("flickr8k_audio --archives=nowhere", "archives 'nowhere': no such folder"),
        ("flickr8k_audio --archives=. --tolerance=2", "tolerance is 2.0; give a share"),
        ("flickr8k_audio --archives=. --max-seconds=0", "max_seconds is 0; give"),
        ("flickr8k_audio --archives=. --workers=-1", "workers is -1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("image,audio\n")
    assert cli.main(["data", "prepare", *words.split()]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_missing_corpus_says_which_command_makes_it(tmp_path):
    assert make_command("manifest/mine") == (
        "sir-jax data prepare manifest --name=mine --manifest=FILE"
    )
    assert make_command("flickr8k_audio/official", "d") == (
        "sir-jax data prepare flickr8k_audio/official --archives=DIR --data_dir=d"
    )
    with pytest.raises(UserError, match="'places_audio/1999' is unknown; choose one of flickr8k"):
        open_corpus("places_audio/1999", tmp_path)
