"""The `search` verb: ranked files and a grid; bad input gets one clear line and nothing is lost."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.cli import main as cli
from sir_jax.cli import search as verb
from sir_jax.cli.search import find_images
from sir_jax.inference.retriever import Retriever


def search(workdir, query, images, tmp_path, *more):
    """Return the exit status of `sir-jax search`."""
    queries = query if isinstance(query, list) else [query]
    return cli.main(
        [
            "search",
            f"--workdir={workdir}",
            *(f"--query={q}" for q in queries),
            f"--images={images}",
            f"--out={tmp_path / 'grid.png'}",
            *more,
        ]
    )


def ranked(out):
    """Return the (score, path) lines of the verb's output."""
    found = re.findall(r"^ +\d+ +(-?\d\.\d+)  (\S+)", out, re.MULTILINE)
    return [(float(score), path) for score, path in found]


def error_of(capsys, status):
    """Return the one line that a user's mistake gives."""
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1
    return lines[0]


def test_folders_are_read_through_and_sorted(folder):
    found = [str(path.relative_to(folder)) for path in find_images(folder)]
    assert found == sorted(
        ["C.JPEG", "a.jpg", "b.png", "d.bmp", "deeper/a.png", "deeper/g.png", "e.gif", "f.webp"]
    )


def test_ranking_is_the_dot_product_order(workdir, folder, query, tmp_path, capsys):
    assert search(workdir, query, folder, tmp_path, "-k", "3") == 0
    captured = capsys.readouterr()
    found = ranked(captured.out)

    retriever = Retriever.load(workdir)
    paths = find_images(folder)
    scores = (retriever.encode_image(paths) @ retriever.encode_speech([query]).T)[:, 0]
    order = np.argsort(-scores)[:3]
    assert [path for _, path in found] == [str(paths[i]) for i in order]
    np.testing.assert_allclose([score for score, _ in found], scores[order], atol=6e-4)
    assert captured.err == ""
    with Image.open(tmp_path / "grid.png") as image:
        assert image.mode == "RGB" and image.width > 700


def test_several_queries_words_and_truth(workdir, folder, query, tmp_path, make_tone, capsys):
    second = tmp_path / "second.flac"
    soundfile.write(second, make_tone(70_000)[::-1], 16_000)
    query.with_suffix(".txt").write_text("a red circle\n")
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"query.wav": "g.png"}))
    assert search(workdir, [query, second], folder, tmp_path, f"--truth={truth}", "-k=8") == 0
    out = capsys.readouterr().out
    assert f"{query} (1.0 s): a red circle" in out and f"{second} (4.4 s)\n" in out
    assert len(ranked(out)) == 16
    assert re.findall(r"(\S+)  <- right", out) == [str(folder / "deeper" / "g.png")]


def test_more_than_there_are_shows_all_and_says_so(workdir, folder, query, tmp_path, capsys):
    assert search(workdir, query, folder, tmp_path, "-k", "100") == 0
    captured = capsys.readouterr()
    assert len(ranked(captured.out)) == 8
    assert captured.err == "-k 100: there are only 8 pictures, all are shown\n"


def test_bad_pictures_are_named_skipped_and_counted(workdir, folder, query, tmp_path, capsys):
    (folder / "text.jpg").write_text("I am a text file")
    whole = (folder / "a.jpg").read_bytes()
    (folder / "deeper" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    assert search(workdir, query, folder, tmp_path, "-k", "8") == 0
    captured = capsys.readouterr()
    assert len(ranked(captured.out)) == 8
    lines = captured.err.splitlines()
    assert len(lines) == 4 and lines[-1] == "3 of 11 files skipped"
    for name, line in zip(("deeper/cut.jpg", "empty.png", "text.jpg"), lines, strict=False):
        assert line.startswith("skipped: ") and name in line


def test_a_lone_text_file_named_jpg(workdir, query, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    (images / "text.jpg").write_text("I am a text file")
    line = error_of(capsys, search(workdir, query, images, tmp_path))
    assert "no picture could be read" in line and "text.jpg" in line
    assert not (tmp_path / "grid.png").exists()


def test_an_empty_folder(workdir, query, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    assert "holds no picture" in error_of(capsys, search(workdir, query, images, tmp_path))
    assert "not a folder" in error_of(capsys, search(workdir, query, query, tmp_path))


def test_bad_recordings(workdir, folder, query, tmp_path, capsys):
    cut = tmp_path / "cut.wav"
    cut.write_bytes(query.read_bytes()[:-1000])
    line = error_of(capsys, search(workdir, [query, cut], folder, tmp_path))
    assert "cut.wav" in line and "truncated" in line

    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(0), 16_000, subtype="PCM_16")
    line = error_of(capsys, search(workdir, silent, folder, tmp_path))
    assert "silent.wav" in line and "0 samples" in line

    soundfile.write(silent, np.zeros(8_000), 16_000, subtype="PCM_16")
    assert search(workdir, silent, folder, tmp_path) == 0
    assert f"warning: {silent}: digital silence\n" in capsys.readouterr().err

    line = error_of(capsys, search(workdir, tmp_path / "none.wav", folder, tmp_path))
    assert "none.wav" in line and "no such file" in line


def test_stereo_at_44100_hz_int16_works(workdir, folder, query, tmp_path, make_tone, capsys):
    stereo = tmp_path / "stereo.wav"
    wave = make_tone(44_100, 44_100)
    soundfile.write(stereo, np.stack([wave, wave], axis=1), 44_100, subtype="PCM_16")
    assert search(workdir, [query, stereo], folder, tmp_path, "-k", "8") == 0
    found = ranked(capsys.readouterr().out)
    assert [path for _, path in found[:8]] == [path for _, path in found[8:]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-k", "0"], "-k is 0"),
        (["--batch_size=0"], "--batch_size is 0"),
        (["--out=grid.txt"], "end it in .png"),
        (["--truth=none.json"], "none.json"),
    ],
)
def test_options_that_cannot_be_used(workdir, folder, query, tmp_path, more, message, capsys):
    assert message in error_of(capsys, search(workdir, query, folder, tmp_path, *more))


def test_an_index_answers_both_ways(matching_workdir, folder, query, tmp_path, capsys):
    (folder / "query.wav").write_bytes(query.read_bytes())
    (folder / "query.txt").write_text("a tone")
    index, model = f"--index={tmp_path / 'index'}", f"--workdir={matching_workdir}"
    made = ["index", f"--model={matching_workdir}", f"--folder={folder}", f"--out={index[8:]}"]
    assert cli.main(made) == 0
    capsys.readouterr()
    assert cli.main(["search", index, model, f"--query={query}", "--json", "--rerank=6"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["query"] == str(query) and len(found["hits"]) == 5
    matches = [hit["match"] for hit in found["hits"]]
    keys = [hit["score"] / 0.07 + hit["match"] for hit in found["hits"]]
    assert keys == sorted(keys, reverse=True)
    assert all(folder / hit["id"] == Path(hit["path"]) for hit in found["hits"])
    retriever = Retriever.load(matching_workdir)
    again = retriever.match([query], [hit["path"] for hit in found["hits"]])
    np.testing.assert_allclose(matches, again, atol=1e-4)
    assert cli.main(["search", index, model, f"--picture={folder / 'b.png'}", "-k=1"]) == 0
    assert re.search(r"   1  [ -]\d\.\d+  \S*query\.wav: a tone\n", capsys.readouterr().out)


def test_a_picture_finds_the_moment(workdir, folder, make_tone, tmp_path, capsys):
    rng = np.random.default_rng(0)
    soundfile.write(folder / "talk.flac", make_tone(100_000) * rng.uniform(0, 1, 100_000), 16_000)
    index = f"--index={tmp_path / 'index'}"
    assert (
        cli.main(["index", f"--model={workdir}", f"--folder={folder}", f"--out={index[8:]}"]) == 0
    )
    assert "of these, 1 long: 4 moments, 0 silent ones left out\n" in capsys.readouterr().out
    command = ["search", index, f"--workdir={workdir}", f"--picture={folder / 'b.png'}", "-k=1"]
    assert cli.main([*command, "--json"]) == 0
    ((hit,),) = (answer["hits"] for answer in json.loads(capsys.readouterr().out))
    starts = [moment["start"] for moment in hit["moments"]]
    assert {*starts} <= {0, 1.5, 3, 3.25} and 1 <= len(starts) <= 2
    assert hit["score"] == hit["moments"][0]["score"]
    assert cli.main(command) == 0
    (line,) = re.findall(r"talk\.flac at (.*)", capsys.readouterr().out)
    start, end, score = re.match(r"0:0(\d\.\d)-0:0(\d\.\d) \((-?\d\.\d{3})\)", line).groups()
    assert float(start) == pytest.approx(starts[0], abs=0.06) and score == f"{hit['score']:.3f}"
    assert float(end) == pytest.approx(starts[0] + 3, abs=0.06)


def test_files_that_were_deleted_since_are_marked(
    matching_workdir, folder, query, tmp_path, capsys
):
    for name in ("one.wav", "two.wav"):
        (folder / name).write_bytes(query.read_bytes())
    index, model = f"--index={tmp_path / 'index'}", f"--workdir={matching_workdir}"
    made = ["index", f"--model={matching_workdir}", f"--folder={folder}", f"--out={index[8:]}"]
    assert cli.main(made) == 0
    (folder / "a.jpg").unlink()
    (folder / "b.png").write_bytes(b"no picture any more")
    (folder / "one.wav").unlink()
    command = ["search", index, model, f"--query={query}", "-k=8", f"--out={tmp_path / 'g.png'}"]
    capsys.readouterr()
    assert cli.main(command) == 3
    captured = capsys.readouterr()
    assert len(ranked(captured.out)) == 8 and "picture grid:" in captured.out
    marks = dict(re.findall(r"/([^/\s]+)  <- (.*)", captured.out))
    assert marks.keys() == {"a.jpg", "b.png"} and marks["a.jpg"] == "gone"
    assert marks["b.png"].startswith("not a picture")
    assert captured.err.startswith("2 of 8 results have no file that can be shown")
    assert cli.main([*command, "--json", "--rerank=8"]) == 3
    (found,) = json.loads(capsys.readouterr().out)
    assert {hit["id"]: hit["problem"] for hit in found["hits"] if hit["problem"]} == {
        "a.jpg": "gone"
    }
    assert {hit["id"] for hit in found["hits"] if hit["match"] is None} == {"a.jpg", "b.png"}
    picture = ["search", index, model, f"--picture={folder / 'd.bmp'}"]
    assert cli.main(picture) == 3
    out = capsys.readouterr().out
    assert out.count("one.wav  <- gone\n") == 1 and out.count("two.wav\n") == 1


def test_an_index_of_another_model(matching_workdir, workdir, folder, query, tmp_path, capsys):
    made = ["index", f"--model={matching_workdir}", f"--folder={folder}"]
    assert cli.main([*made, f"--out={tmp_path / 'index'}"]) == 0
    capsys.readouterr()
    options = [f"--index={tmp_path / 'index'}", f"--workdir={workdir}", f"--query={query}"]
    line = error_of(capsys, cli.main(["search", *options]))
    names = (matching_workdir, workdir)
    assert all(Retriever.load(name).fingerprint[:8] in line for name in names)


def test_typed_words_find_pictures(workdir, folder, said, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(verb, "say", lambda *what, **how: asked.append((*what, how)) or said)
    command = ["search", f"--workdir={workdir}", f"--images={folder}", "--say=a  red fish"]
    assert cli.main([*command, f"--out={tmp_path / 'grid.png'}", "-k=8"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("said in en by 2 voices (espeak 2): a red fish\n   1  ")
    found = Retriever.load(workdir).encode_speech([said])[0]
    scores = Retriever.load(workdir).encode_image(paths := find_images(folder)) @ found
    assert [path for _, path in ranked(captured.out)] == [
        str(paths[i]) for i in np.argsort(-scores)
    ]
    assert captured.err == "" and (tmp_path / "grid.png").exists()

    more = ["--say=twice", "--language=fr", "--voices=2", "--json", "-k=1"]
    assert cli.main([*command, *more]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["query"] for answer in answers] == ["a red fish"] * 2
    assert answers[1]["language"] == "en"
    assert answers[1]["voices"] == ["espeak:en+m1", "espeak:en+f1"]
    assert asked == [
        ("a  red fish", "en", {"voices": 6}),
        ("a  red fish", "fr", {"voices": 2}),
        ("twice", "fr", {"voices": 2}),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--say=🙂"], "the text '🙂' has no letter and no digit; give words"),
        (["--say=a", "--language=frensh"], "'frensh'; did you mean French (fr)?"),
        (["--say=a", "--voices=0"], "--voices is 0; give 1 or more"),
        (["--query=a.wav", "--language=fr"], "--language and --voices belong to --say"),
    ],
)
def test_words_that_cannot_be_said(workdir, folder, tmp_path, options, message, capsys):
    where = [f"--workdir={workdir}", f"--images={folder}", f"--out={tmp_path / 'grid.png'}"]
    assert message in error_of(capsys, cli.main(["search", *where, *options]))


def test_recordings_are_found_in_an_index_only(workdir, folder, capsys):
    options = [f"--workdir={workdir}", f"--images={folder}", f"--picture={folder / 'b.png'}"]
    assert "give --index" in error_of(capsys, cli.main(["search", *options]))


def test_a_folder_without_a_run(folder, query, tmp_path, capsys):
    assert "nor checkpoints" in error_of(capsys, search(tmp_path, query, folder, tmp_path))


def test_out_in_a_file(workdir, folder, query, tmp_path, capsys):
    out = f"--out={query}/grid.png"
    assert "cannot be made" in error_of(capsys, search(workdir, query, folder, tmp_path, out))
