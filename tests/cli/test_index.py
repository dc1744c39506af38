"""`sir-jax index` from its command line to what is on disk."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from sir_jax.cli.main import main
from sir_jax.index.index import Index
from sir_jax.index.vectors import checksum_of


def picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_build_update_and_failures(workdir, folder, tmp_path, capsys):
    out = tmp_path / "index"
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={out}"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("8 added, 0 changed, 0 removed, 0 failed in ")
    assert captured.out.endswith(f"{out}: 8 pictures and 0 recordings\n")
    assert captured.err.startswith("files embedded: 8 of 8 (")

    assert main(command) == 0
    assert capsys.readouterr().out.startswith("0 added, 0 changed, 0 removed, 0 failed")

    picture(folder / "new.png", 1)
    (folder / "a.jpg").unlink()
    (folder / "b.png").write_bytes(b"no picture any more")
    (folder / "one.wav").write_bytes(b"RIFF")
    assert main([*command, "--json"]) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["added"] == ["new.png"] and found["removed"] == ["a.jpg"]
    assert found["changed"] == [] and set(found["failed"]) == {"b.png", "one.wav"}
    assert (found["images"], found["recordings"], found["width"]) == (7, 0, 32)
    assert f"skipped: {folder}/b.png: " in captured.err
    assert Index.load(out).images.ids[-1] == "new.png"
    # Still not in the index, though tried again.
    assert main(command) == 3
    assert "2 failed" in capsys.readouterr().out


def test_an_absent_folder_loses_nothing_until_it_is_pruned(workdir, folder, tmp_path, capsys):
    out = tmp_path / "index"
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={out}"]
    assert main(command) == 0
    before = (out / "index.json").read_bytes()
    away, other = tmp_path / "away", tmp_path / "other"
    folder.rename(away)
    other.mkdir()
    picture(other / "1.png", 1)
    capsys.readouterr()
    for place, message in (
        (folder, "is not a folder"),
        (
            other,
            f"{other} is another folder than {folder}, of which the index was made: it holds 0",
        ),
    ):
        assert main([*command, f"--folder={place}"]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    folder.mkdir()
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "holds none of the 8 files" in err and "nothing was changed" in err and "--prune" in err
    assert (out / "index.json").read_bytes() == before

    # What --prune would do is shown first, and nothing is done.
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "it would be: 0 added, 0 changed, 8 removed, 0 retried\n" in shown
    assert "  removed deeper/g.png\n" in shown and "refused without --prune" in shown
    assert main([*command, "--dry-run", "--json", "--prune"]) == 0
    assert len(json.loads(capsys.readouterr().out)["removed"]) == 8
    assert (out / "index.json").read_bytes() == before
    folder.rmdir()
    away.rename(folder)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == []  # nothing is embedded again
    (folder / "a.jpg").unlink()
    for name in ("b.png", "d.bmp", "e.gif"):
        (folder / name).unlink()
    assert main(command) == 2
    assert main([*command, "--prune"]) == 0
    assert "0 added, 0 changed, 4 removed" in capsys.readouterr().out
    assert len(Index.load(out)) == 4


def test_a_dry_run_without_an_index_shows_what_it_would_hold(workdir, folder, tmp_path, capsys):
    out = tmp_path / "index"
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={out}", "--dry-run"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["added"]) == 8 and not out.exists()
    assert found["passed_over"] == {"neither a picture nor a recording": {".txt": 1}}


def test_every_file_is_accounted_for(workdir, folder, tmp_path, capsys):
    out, blob = folder / "index", tmp_path / "5f3a"
    (folder / "a.jpg").rename(folder / "a.jfif")
    (folder / "b.png").rename(blob)
    (folder / "b.png").symlink_to(blob)  # as the hub's cache has it
    (folder / "page.html").write_text("<html></html>")
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "cut.png").write_bytes((folder / "deeper" / "g.png").read_bytes()[:60])
    (folder / "gone.wav").symlink_to(tmp_path / "gone.wav")
    Image.new("RGB", (9, 9), "white").save(folder / "white.png")
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={out}"]
    for _ in range(2):
        assert main([*command, "--json"]) == 3
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert found["images"] == 9 and found["noted"] == {
            "white.png": "is of one colour (#ffffff)"
        }
        left_out = found["not_indexed"]
        counts = {(why, suffix): n for why, of in left_out.items() for suffix, n in of.items()}
        assert counts.pop(("a link to nothing", ".wav")) == 1
        assert counts.pop(("neither a picture nor a recording", ".txt")) == 1
        assert counts.pop(("neither a picture nor a recording", ".html")) == 1
        # Of the picture that is cut off, and the one that is none.
        assert {suffix for _, suffix in counts} == {".heic", ".png"} and sum(counts.values()) == 2
        assert "warning: 1 x of one colour: white.png\n" in captured.err
        assert found["images"] + sum(n for of in left_out.values() for n in of.values()) == 14
        assert ("b.png" in found["links_outside"]) == bool(found["added"])
    assert main(command) == 3
    captured = capsys.readouterr()
    assert "\nnot indexed: " in captured.out
    assert "neither a picture nor a recording: 1 .html, 1 .txt" in captured.out.replace(
        "1 .txt, 1 .html", "1 .html, 1 .txt"
    )


def test_many_failures_are_not_all_named(workdir, tmp_path, capsys):
    for number in range(23):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    picture(tmp_path / "good.png", 0)
    command = ["index", f"--model={workdir}", f"--folder={tmp_path}", f"--out={tmp_path / 'i'}"]
    assert main(command) == 3
    err = capsys.readouterr().err
    assert err.count("skipped: ") == 20 and "and 3 more; index.json names all" in err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"folder": "none"}, "none is not a folder"),
        ({"model": "none"}, "none is no folder"),
        ({"batch_size": "0"}, "--batch_size is 0; give 1 or more"),
    ],
)
def test_mistakes(workdir, folder, tmp_path, capsys, change, message):
    options = {"model": workdir, "folder": folder, "out": tmp_path / "index"} | change
    assert main(["index", *(f"--{name}={value}" for name, value in options.items())]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sir-jax index: ") and message in err and err.count("\n") == 1


def test_an_index_of_another_model(workdir, folder, tmp_path, capsys):
    out = tmp_path / "index"
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={out}"]
    assert main(command) == 0
    head = json.loads((out / "index.json").read_text())
    head["model"].update(name="older", fingerprint="0" * 32)
    (out / "index.json").write_text(json.dumps(head))
    assert main(command) == 2
    assert "is of model older (00000000), not of" in capsys.readouterr().err


def test_killed_and_given_again(workdir, tmp_path, capsys):
    folder, out = tmp_path / "many", tmp_path / "index"
    folder.mkdir()
    for number in range(3_000):
        picture(folder / f"{number:04d}.png", number)
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={out}"]
    verb = "import sys; from sir_jax.cli.main import entry; sys.exit(entry())"
    process = subprocess.Popen(
        [sys.executable, "-c", verb, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # Of three chunks, the first.
    while not (out / "chunks" / "000000.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "index.json").exists()
    first = (out / "chunks" / "000000.safetensors").read_bytes()
    matrix = np.frombuffer(first[-1024 * 32 * 4 :], np.float32).reshape(1024, 32)
    # A mark in the finished chunk shows that it is used as it is.
    marked = matrix.copy()
    marked[1023] = np.eye(32)[5]
    (out / "chunks" / "000000.safetensors").write_bytes(first[: -marked.nbytes] + marked.tobytes())
    head = out / "chunks" / "000000.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"checksum": checksum_of(marked)}))
    assert main(command) == 0
    assert "3,000 added" in capsys.readouterr().out
    vectors = Index.load(out).images.vectors
    np.testing.assert_array_equal(vectors[:1023], matrix[:1023])
    assert vectors[1023, 5] == 1 and not (out / "chunks").exists()
