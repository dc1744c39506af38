"""What is in two splits is found by content, however it is spelled, and refused or reported."""

import json
import os
import shutil

import layouts
import numpy as np
import pytest
import soundfile
from broken import picture, wav

from sir_jax.cli import main as cli
from sir_jax.data.builders.manifest.layout import plan_manifest
from sir_jax.data.builders.publisher import RealPaths
from sir_jax.data.corpus import open_corpus
from sir_jax.data.preparation.leaks import ENTRY_DTYPE, find_copies, without_pictures


def test_pictures_that_are_in_several_splits_by_intention():
    splits = ["train", "test", "test_flite"]
    found = [
        *((b"a" * 16, split, 0, -1) for split in (1, 2)),
        *((b"b" * 16, split, 1, -1) for split in (0, 2)),
        *((b"c" * 16, split, 2, 5) for split in (1, 2)),
    ]
    copies = find_copies(np.array(found, ENTRY_DTYPE))
    assert copies.counts == {"pictures": 2, "recordings": 1}
    left, meant = without_pictures(copies, splits, "test")
    assert (left.counts, meant) == ({"pictures": 1, "recordings": 1}, 1)
    left, meant = without_pictures(copies, splits)
    assert (left.counts, meant) == ({"pictures": 0, "recordings": 1}, 2)


def write(folder, rows):
    """Write a manifest of (picture, recording, split), two pictures and six recordings."""
    for seed, name in enumerate(("a.png", "b.png")):
        (folder / name).write_bytes(picture(seed))
    for i in range(6):
        (folder / f"{i}.wav").write_bytes(wav(seed=i))
    (folder / "pictures").mkdir()
    lines = [dict(zip(("image", "audio", "split"), row, strict=False)) for row in rows]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))


def run(folder, *more):
    words = ["data", "prepare", "manifest", f"--manifest={folder}/list.jsonl", "--name=mine"]
    return cli.main([*words, f"--data_dir={folder}/data", "--workers=1", *more])


def verify(folder, capsys):
    capsys.readouterr()
    status = cli.main(["data", "verify", "manifest/mine", f"--data_dir={folder}/data"])
    return status, capsys.readouterr().out.splitlines()


def listed(folder):
    lines = (folder / "data/manifest/mine/leaks.jsonl").read_text().splitlines()
    return [
        (leak["kind"], [(place["split"], place["name"]) for place in leak["places"]])
        for leak in map(json.loads, lines)
    ]


def test_pictures_and_recordings_in_two_splits_are_refused_with_their_list(tmp_path, capsys):
    rows = [
        ("a.png", "0.wav", "train"),
        ("./a.png", "1.wav", "test"),
        ("copy.png", "2.wav", "test"),
        ("b.png", "3.wav", "train"),
        ("pictures/../link.png", "./3.wav", "val"),
    ]
    write(tmp_path, rows)
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    (tmp_path / "link.png").symlink_to("b.png")
    assert run(tmp_path) == 2
    printed = capsys.readouterr()
    where = tmp_path / "data/manifest/mine/leaks.jsonl"
    assert printed.err.splitlines()[-1] == (
        "sir-jax data prepare: manifest/mine: in more than one split: 2 pictures and 1 recording, "
        "so that a model would be tested on what it was trained on; listed in "
        f"{where}; take each out of all splits but one, or accept this with allow_leaks"
    )
    assert "the same picture: a.png (train), ./a.png (test), copy.png (test)" in printed.out
    assert "the same recording: 3.wav (train), ./3.wav (val)" in printed.out
    assert listed(tmp_path) == [
        ("picture", [("train", "a.png"), ("test", "./a.png"), ("test", "copy.png")]),
        ("picture", [("train", "b.png"), ("val", "pictures/../link.png")]),
        ("recording", [("train", "3.wav"), ("val", "./3.wav")]),
    ]
    assert not list(tmp_path.glob("data/manifest/mine/*/dataset_info.json"))

    # Who means it gets it, and `verify` says what was accepted.
    assert run(tmp_path, "--allow_leaks") == 0
    corpus = open_corpus("manifest/mine", tmp_path / "data")
    assert {name: len(split) for name, split in corpus.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
    }
    status, lines = verify(tmp_path, capsys)
    assert status == 0 and lines[-1].startswith("manifest/mine: whole (5 pictures in")
    assert "twice in one split: 1 picture, kept" in lines
    assert (
        "in more than one split: 2 pictures and 1 recording, accepted when it was prepared" in lines
    )
    # A corpus that an older version prepared said nothing of leaks.
    path = tmp_path / "data/manifest/mine/report.json"
    report = json.loads(path.read_text())
    del report["rules"]["allow_leaks"], report["leaks"], report["repeats"]
    path.write_text(json.dumps(report))
    status, lines = verify(tmp_path, capsys)
    assert status == 1 and lines[-1].startswith("manifest/mine: 3 things wrong")
    assert "the same recording: 3.wav (train), ./3.wav (val)" in lines


def test_the_same_sound_in_another_container_is_a_leak(tmp_path, capsys):
    write(tmp_path, [("a.png", "0.wav", "train"), ("b.png", "same.flac", "test")])
    samples, rate = soundfile.read(tmp_path / "0.wav", dtype="int16")
    soundfile.write(tmp_path / "same.flac", samples, rate)
    assert run(tmp_path) == 2
    assert "in more than one split: 1 recording, so that" in capsys.readouterr().err
    assert listed(tmp_path) == [("recording", [("train", "0.wav"), ("test", "same.flac")])]
    # Mended, the list is gone.
    (tmp_path / "list.jsonl").write_text('{"image": "a.png", "audio": "0.wav"}')
    assert run(tmp_path) == 0
    assert not (tmp_path / "data/manifest/mine/leaks.jsonl").exists()


def test_a_recording_counts_once_however_it_is_spelled(tmp_path, capsys):
    rows = [("a.png", "0.wav"), ("./a.png", f"{tmp_path}/0.wav"), ("a.png", "hard.wav")]
    # The same words by the same synthetic voice may describe two pictures.
    write(tmp_path, [*rows, ("b.png", "copy.wav"), ("./b.png", "1.wav")])
    os.link(tmp_path / "0.wav", tmp_path / "hard.wav")
    shutil.copy(tmp_path / "0.wav", tmp_path / "copy.wav")
    assert run(tmp_path, "--tolerance=0.6") == 0
    split = open_corpus("manifest/mine", tmp_path / "data").splits["train"]
    assert {split[row].key: [c.key for c in split[row].captions] for row in (0, 1)} == {
        "a.png": ["0.wav"],
        "b.png": ["copy.wav", "1.wav"],
    }
    lines = (tmp_path / "data/manifest/mine/quarantine.jsonl").read_text().splitlines()
    assert [(p["path"], p["reason"], p["detail"]) for p in map(json.loads, lines)] == [
        (
            f"{tmp_path}/0.wav",
            "duplicate id",
            "list.jsonl:2: list.jsonl:1 names this recording as well",
        ),
        ("hard.wav", "duplicate id", "the same sound as 0.wav, of the same picture"),
    ]
    assert "twice in one split: 1 recording, kept" in capsys.readouterr().out


def test_an_image_id_has_one_split_and_one_file(tmp_path):
    rows = ["one,a.png,0.wav,train", "one,./a.png,1.wav,train", "one,b.png,2.wav,train"]
    rows = ["image_id,image,audio,split", *rows, "one,a.png,3.wav,test"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    plan = plan_manifest(tmp_path / "list.csv", tmp_path)
    assert [(i.key, i.image, [c.audio for c in i.captions]) for i in plan.images] == [
        ("one", "a.png", ["0.wav", "1.wav"])
    ]
    assert [(p.path, p.reason) for p in plan.problems] == [
        ("b.png", "duplicate id"),
        ("list.csv:5", "bad metadata"),
    ]


def test_real_paths_follow_links_of_folders_and_files(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_text("")
    (tmp_path / "folder").symlink_to("a/b")
    (tmp_path / "link").symlink_to("a/file")
    real = RealPaths(tmp_path)
    # Not a/../file: `..` of a link is the folder above its target.
    for path in ("a/file", "./a//file", "a/b/../file", "link", "folder/../file", tmp_path / "link"):
        assert real(str(path)) == str(tmp_path / "a/file")
    assert real("a/none") == str(tmp_path / "a/none") != real("a/b/none")


def test_a_published_corpus_is_kept_as_published_and_verify_says_so(tmp_path, capsys):
    archives = layouts.write("spoken_coco", tmp_path / "tree", form="tree")
    train, test = (
        archives / "train2014/COCO_train2014_000000000025.jpg",
        archives / "val2014/COCO_val2014_000000325114.jpg",
    )
    shutil.copy(train, test)
    root = f"--data_dir={tmp_path / 'data'}"
    words = ["spoken_coco/karpathy", f"--archives={archives}", root, "--tolerance=1"]
    assert cli.main(["data", "prepare", *words, "--workers=1"]) == 0
    line = f"the same picture: train2014/{train.name} (train), val2014/{test.name} (test)"
    printed = capsys.readouterr().out
    assert line in printed and "in more than one split: 1 picture, listed in" in printed
    assert cli.main(["data", "verify", "spoken_coco", root]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == [
        "in more than one split: 1 picture, kept as published",
        f"the same picture: {train.name} (train), {test.name} (test)",
    ]
    assert cli.main(["data", "prepare", *words, "--allow_leaks"]) == 2
    assert "--allow_leaks is for `prepare manifest`" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(3))
def test_copies_are_those_of_a_slow_search(seed):
    rng = np.random.default_rng(seed)
    entries = np.zeros(300, ENTRY_DTYPE)
    # Digests whose first or second half alone is equal.
    halves = rng.integers(0, 9, (300, 2)).astype("u8")
    entries["digest"] = halves.view("V16")[:, 0]
    entries["split"], entries["image"] = rng.integers(0, 3, 300), np.arange(300)
    entries["caption"] = np.where(rng.random(300) < 0.5, -1, np.arange(300))
    groups = {}
    for entry in entries:
        key = (bool(entry["caption"] >= 0), bytes(entry["digest"]))
        groups.setdefault(key, []).append((int(entry["split"]), int(entry["image"])))
    leaks = [sorted(group) for group in groups.values() if len({s for s, _ in group}) > 1]
    repeats = {False: 0, True: 0}
    for (sound, _), group in groups.items():
        repeats[sound] += len(group) - len({s for s, _ in group})
    copies = find_copies(entries)
    found = [[(int(e["split"]), int(e["image"])) for e in leak] for leak in copies.leaks]
    assert sorted(found) == sorted(leaks) and len(leaks) > 50
    assert copies.repeats == {"pictures": repeats[False], "recordings": repeats[True]}
    assert sum(copies.counts.values()) == len(leaks)
