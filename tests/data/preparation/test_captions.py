"""From a folder of pictures and a list of captions to a corpus, whatever is wrong with them."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from captioned import picture, write_pictures

from sir_jax.data.builders.spoken_captions.config import CaptionsConfig
from sir_jax.data.corpus import make_command, open_corpus, open_pictures
from sir_jax.data.media.audio import load_audio
from sir_jax.data.preparation import captions as module
from sir_jax.data.preparation.captions import Captions, prepare_captions
from sir_jax.data.preparation.prepare import Options
from sir_jax.data.preparation.report import read_report
from sir_jax.data.preparation.verify import verify
from sir_jax.errors import UserError

NAMES = [f"{n}.png" for n in range(8)]
CONFIG = CaptionsConfig(voices=2, hold_out_pictures=20, label="mine")


def write_list(folder, lines, name="list.csv"):
    (folder / name).write_text("\n".join(["file,en,fr", *lines]) + "\n")
    return Captions(folder / "images", folder / name)


def make(source, root, config=CONFIG, **options):
    return prepare_captions(source, config, root, Options(**{"workers": 1} | options))


def quarantine(corpus_or_folder) -> list[dict]:
    lines = (corpus_or_folder / "quarantine.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with eight pictures, of which one is broken, and a list."""
    folder = tmp_path_factory.mktemp("mine")
    write_pictures(folder / "images", NAMES)
    (folder / "images/7.png").write_bytes((folder / "images/7.png").read_bytes()[:200])
    write_list(folder, [f"{n}.png,dog {n},chien {n}" for n in range(8)])
    return folder


@pytest.fixture(scope="module")
def corpus(place, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return make(Captions(place / "images", place / "list.csv"), root, tolerance=0.5)


def test_records_hold_the_pictures_and_what_voices_say(corpus, place):
    seen = {}
    for name, split in corpus.splits.items():
        for row in range(len(split)):
            record = split[row]
            seen[record.key] = name
            assert record.image == (place / "images" / record.key).read_bytes()
            number = record.key[0]
            takes = 2 if name == "train" else 1
            said = [(c.language, c.text) for c in record.captions]
            assert said == [("en", f"dog {number}")] * takes + [("fr", f"chien {number}")] * takes
            for caption in record.captions:
                wave = load_audio(caption.audio, caption.key)
                assert caption.engine == "espeak" and caption.samples == len(wave) > 4000
                assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(0.1, abs=0.03)
    assert sorted(seen) == NAMES[:7] and set(seen.values()) == {"train", "val", "test"}


def test_a_broken_picture_is_listed_with_its_captions(corpus):
    problems = quarantine(corpus.directory.parent)
    assert problems[0]["path"] == "7.png" and problems[0]["reason"] == "truncated image"
    assert {p["reason"] for p in problems[1:]} == {"no image"}
    # It is held out, so that each of its captions is said once.
    assert len(problems) == 1 + 2 and all("\n" not in p["detail"] for p in problems)


def test_it_is_whole_and_known_by_name(corpus):
    root = corpus.directory.parents[2]
    assert verify(corpus, full=True, notes=(notes := [])) == [] and notes == []
    name = corpus.name.partition("/")[2]
    assert name.startswith("mine_all_v2_p20_espeak_") and len(name) == 35
    assert open_pictures(corpus.name, root).splits.keys() == corpus.splits.keys()
    assert make_command(corpus.name, "there") == (
        "sir-jax data spoken_captions --images=DIR --captions=FILE --voices=2 "
        "--hold_out_pictures=20 --engines=espeak --name=mine --data_dir=there"
    )
    with pytest.raises(UserError, match="is no name of a spoken_captions corpus"):
        open_corpus("spoken_captions/mine", root)


def test_the_same_again_is_the_same_and_other_captions_are_another(corpus, place, tmp_path):
    root, source = corpus.directory.parents[2], Captions(place / "images", place / "list.csv")
    times = {path: path.stat().st_mtime_ns for path in corpus.directory.iterdir()}
    again = make(source, root, tolerance=0.001)
    assert again.name == corpus.name
    assert {path: path.stat().st_mtime_ns for path in corpus.directory.iterdir()} == times
    assert read_report(corpus.directory.parent).rules["tolerance"] == 0.5
    assert [path.name for path in (root / "spoken_captions").iterdir()] == [
        corpus.directory.parent.name
    ]
    other = write_list(place, [f"{n}.png,a dog {n},chien {n}" for n in range(7)], "other.csv")
    assert make(other, root).name != corpus.name and corpus.directory.exists()


def test_what_is_left_out_is_counted_as_stated_and_before_anything_is_said(
    place, tmp_path, capsys, monkeypatch
):
    lines = [f"{n}.png,dog {n},chien {n}" for n in range(7)]
    source = write_list(place, [*lines, "gone.png,cat,chat", "0.png,dog 0,🐶"], "bad.csv")
    monkeypatch.setattr(module, "prepare", None)
    # Of 14 + 3 captions 3 are lost; of 28 + .. that would be said it would be fewer.
    config = CaptionsConfig(voices=2, hold_out_pictures=0, label="mine")
    with pytest.raises(UserError) as caught:
        make(source, tmp_path, config)
    said = str(caught.value)
    assert "3 of 17 recordings of split 'train' are missing or cannot be used (17.65 %" in said
    assert "\n" not in said and "or accept it with a tolerance of 0.1765" in said
    assert capsys.readouterr().out.splitlines() == [
        "missing image: 2, the first is bad.csv:9: gone.png: no such picture",
        "repeated: 1, the first is bad.csv:10: 0.png has this caption already: 'dog 0'",
        "bad metadata: 1, the first is bad.csv:10: its caption is '🐶', emoji alone: nothing can "
        "be said",
        "no caption: 1, the first is 7.png: no caption names it",
    ]
    (folder,) = (tmp_path / "spoken_captions").glob("mine_*")
    assert [p["reason"] for p in quarantine(folder)] == [
        *["missing image"] * 2,
        "repeated",
        "bad metadata",
        "no caption",
    ]


def test_a_copy_in_another_split_is_refused_or_accepted(tmp_path):
    images = write_pictures(tmp_path / "images", NAMES[:5])
    shutil.copy(images / "0.png", images / "copy.png")
    splits = {"0.png": "train", "1.png": "train", "2.png": "val", "copy.png": "test"}
    lines = [f"{name},a dog,{split}" for name, split in splits.items()]
    (tmp_path / "list.csv").write_text("\n".join(["file,en,split", *lines]) + "\n")
    source = Captions(images, tmp_path / "list.csv")
    with pytest.raises(UserError, match="in more than one split: 1 picture, so that a model"):
        make(source, tmp_path / "data")
    corpus = make(source, tmp_path / "data", allow_leaks=True)
    assert verify(corpus, notes=(notes := [])) == []
    assert notes[0].startswith("in more than one split: 1 picture, accepted")
    report = corpus.directory.parent / "report.json"
    report.write_text(report.read_text().replace('"allow_leaks": true', '"allow_leaks": false'))
    assert verify(corpus) == ["the same picture: 0.png (train), copy.png (test)"]


def test_pictures_of_test_are_said_again_by_other_engines(corpus, place, tmp_path, monkeypatch):
    # Another engine in name alone: its voices are some of eSpeak NG's.
    from sir_jax.data.builders import spoken
    from sir_jax.data.builders.spoken_captions import plan

    voices_of = spoken.voices_in

    def voices(engine, language, split):
        if engine == "flite":
            return voices_of("espeak", language, "test")[:7] if split == "test" else ()
        return voices_of("espeak", language, split)[-7:]

    for where in (spoken, plan):
        monkeypatch.setattr(where, "voices_in", voices)
    monkeypatch.setattr(module, "require_engine", lambda name: None)
    source = write_list(place, [f"{n}.png,dog {n},chien {n}" for n in range(7)], "again.csv")
    config = CaptionsConfig(voices=1, hold_out_pictures=20, engines=("espeak", "flite"))
    made = make(source, tmp_path, config)
    assert list(made.splits) == ["train", "val", "test", "test_flite"]
    ids = {name: {int(e["image_id"]) for e in split.index} for name, split in made.splits.items()}
    assert {i % 10_000_000 for i in ids["test"]} == {i % 10_000_000 for i in ids["test_flite"]}
    assert verify(made, notes=(notes := [])) == []
    assert notes[0].startswith(f"{len(ids['test'])} pictures are in several splits, as meant")


def test_a_full_disk_loses_nothing(place, tmp_path, monkeypatch):
    lines = [f"{n}.png,dog {n},chien {n}" for n in range(3)]
    source = write_list(place, lines, "full.csv")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("sir_jax.data.preparation.prepare.write_records", full)
        with pytest.raises(OSError, match="No space left"):
            make(source, tmp_path)
    (folder,) = (tmp_path / "spoken_captions").glob("mine_*")
    chunks = {path.name: path.read_bytes() for path in folder.glob("chunks-*/*.chunk")}
    assert chunks

    def nothing(*arguments):
        raise AssertionError("a finished chunk is made again")

    monkeypatch.setattr("sir_jax.data.builders.work_chunks._Run._failed", nothing)
    corpus = make(source, tmp_path)
    assert corpus.directory.parent == folder and verify(corpus) == []
    assert not list((tmp_path / "spoken_captions").glob(".work-*"))


def test_names_that_are_no_unicode_are_listed(tmp_path):
    images = write_pictures(tmp_path / "images", ["a.png", "b.png"])
    name = os.fsdecode(b"caf\xe9.png")
    picture(5).save(images / name)
    (tmp_path / "images/a.txt").write_text("dog")
    (tmp_path / "images/b.txt").write_text("cat")
    (tmp_path / "images" / os.fsdecode(b"caf\xe9.txt")).write_text("café")
    config = CaptionsConfig(("fr",), 1, 0)
    corpus = make(Captions(images), tmp_path / "data", config, tolerance=0.5)
    assert corpus.name.startswith("spoken_captions/captions_fr_v1_p0_espeak_")
    problems = [(p["path"], p["detail"]) for p in quarantine(corpus.directory.parent)]
    detail = "its name is no UTF-8; rename it"
    assert problems == [(f"caf\ufffd.{suffix}", detail) for suffix in ("png", "txt")]
