"""The broken files that corpora are tested with, given to the library and to the commands."""

import json
import os
import re

import numpy as np
import pytest
from broken import PICTURES, SOUNDS, bomb, picture, wav

from sir_jax.cli import main as cli
from sir_jax.inference.retriever import Retriever

# Files that a corpus refuses but a search accepts: a long clip is cut into windows, any rate is
# resampled, channels are averaged.
TAKEN = {"a/long.flac", "a/slow.wav", "a/wide.wav"}


@pytest.fixture(scope="module")
def model(workdir):
    return Retriever.load(workdir, batch_size=4)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Write all broken files and two good ones; return (folder, paths of the unreadable files)."""
    folder = tmp_path_factory.mktemp("media")
    bad = []
    for name, (content, _) in (SOUNDS | PICTURES).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            continue  # a missing file, a pipe or a folder; tested on their own below
        path.write_bytes(content)
        bad += [] if name in TAKEN else [name]
    (folder / "good.wav").write_bytes(wav())
    (folder / "good.png").write_bytes(picture())
    return folder, sorted(bad)


def test_the_library_names_each_broken_file_and_encodes_the_others(model, media):
    folder, bad = media
    for encode, names, good in (
        (model.encode_speech, SOUNDS, "good.wav"),
        (model.encode_image, PICTURES, "good.png"),
    ):
        paths = [folder / name for name in names if name in bad] + [folder / good]
        failures = []
        z = encode(paths, errors="nan", failures=failures)
        assert [position for position, _ in failures] == list(range(len(paths) - 1))
        assert np.isnan(z[:-1]).all()
        np.testing.assert_allclose(z[-1], encode([folder / good])[0], atol=1e-5)
        for path, (_, message) in zip(paths, failures, strict=False):
            assert str(path) in message and "\n" not in message


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, os.mkdir])
def test_paths_that_are_no_regular_file(model, tmp_path, make):
    path = tmp_path / "x.wav"
    make(path)
    failures = []
    assert model.encode_speech([path], errors="skip", failures=failures).shape == (0, 32)
    assert re.search("no such file|is a folder|is no regular file", failures[0][1])


def test_the_index_holds_the_readable_files(model, media, workdir, tmp_path, capsys):
    folder, bad = media
    command = ["index", f"--model={workdir}", f"--folder={folder}", f"--out={tmp_path / 'index'}"]
    assert cli.main([*command, "--json"]) == 3  # some files cannot be read
    done = json.loads(capsys.readouterr().out)
    indexable = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".wav", ".flac", ".ogg", ".mp3")
    assert sorted(done["failed"]) == [name for name in bad if name.lower().endswith(indexable)]
    assert {"good.wav", "good.png"} <= set(done["added"])
    # No file changed, so no file is read again and the failures stay noted.
    assert cli.main([*command, "--json"]) == 3
    again = json.loads(capsys.readouterr().out)
    assert again["added"] == again["changed"] == again["removed"] == []
    assert again["failed"] == done["failed"]


READABLE = {name for name, (content, _) in SOUNDS.items() if isinstance(content, bytes)}


@pytest.mark.parametrize("name", sorted(READABLE - TAKEN))
def test_a_broken_query_is_one_line(media, workdir, name, capsys):
    folder, bad = media
    assert name in bad
    options = [f"--query={folder / name}", f"--images={folder}", f"--workdir={workdir}", "--json"]
    assert cli.main(["search", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sir-jax search: ") and name in line


def test_a_bomb_costs_no_memory(model):
    failures = []
    model.encode_image([bomb()], errors="skip", failures=failures)
    assert "pixels" in failures[0][1]
