"""Prepare: good files are kept bit for bit, broken ones are listed, interrupts lose nothing."""

import dataclasses
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from broken import make_corpus, picture, wav
from PIL import Image
from prepare_helpers import layout_of, listed_in

from sir_jax.data.builders.archives import Source
from sir_jax.data.builders.recorded import (
    Rules,
    encode_wave,
    kept_images,
    make_chunk,
    make_chunks_of,
    read_losses,
    read_recording,
    records_of,
)
from sir_jax.data.builders.recordings import (
    Plan,
    PlannedCaption,
    PlannedImage,
    without_duplicates,
)
from sir_jax.data.preparation.prepare import Options, prepare
from sir_jax.errors import BadMedia

GOOD = 120  # images; with the broken ones they fill six chunks


def run(manifest, root, **options):
    options = {"tolerance": 0.5, "workers": 2} | options
    source = Source(str(manifest.parent))
    return prepare(layout_of(manifest), "mine", source, root, Options(**options))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("user"), GOOD)


@pytest.fixture(scope="module")
def prepared(broken, tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    return root, run(broken[0], root)


def test_broken_files_are_listed_by_path_and_reason(broken, prepared):
    problems = listed_in(prepared[0])
    assert {(p["path"], p["reason"]) for p in problems} == broken[2]
    assert len(problems) == len(broken[2])
    assert all(p["detail"] and "\n" not in p["detail"] for p in problems)
    details = {p["path"]: p["detail"] for p in problems}
    assert details["a/long.flac"] == "120.0 s, at most 60 s (max_seconds)"
    assert details["a/slow.wav"] == "8000 Hz, published at 16000 Hz"
    assert details["a/wide.wav"] == "9 channels, at most 8"
    assert details["a/fifo.wav"] == details["i/fifo.png"] == "no regular file, but a pipe (FIFO)"
    assert details["a/none.wav"] == "no such file"


def test_good_files_are_kept_bit_for_bit(broken, prepared):
    manifest, kept, _ = broken
    splits = {}
    for name, split in prepared[1].splits.items():
        for row in range(len(split)):
            record = split[row]
            assert record.image == (manifest.parent / record.key).read_bytes()
            for caption in record.captions:
                wave, rate = soundfile.read(io.BytesIO(caption.audio), dtype="int16")
                original, _ = soundfile.read(manifest.parent / caption.key, dtype="int16")
                np.testing.assert_array_equal(wave, original)
                assert (rate, caption.samples, caption.text) == (16_000, len(wave), caption.key)
                splits.setdefault(record.key, {})[caption.key] = name
    assert splits == kept


def test_report_counts_splits_and_reasons(prepared):
    report = json.loads((prepared[0] / "manifest/mine/report.json").read_text())
    assert {split: (c["images"], c["captions"]) for split, c in report["splits"].items()} == {
        "train": (108, 216),
        "val": (12, 24),
    }
    assert report["splits"]["val"]["planned_captions"] == 24 + 1 + 1  # a/folder.wav; no split
    assert report["reasons"]["no image"] == {"train": 7}
    assert report["reasons"]["bad metadata"] == {"": 1}
    assert report["rules"] == {"max_seconds": 60.0, "tolerance": 0.5, "allow_leaks": False}
    assert report["leaks"] == report["repeats"] == {"pictures": 0, "recordings": 0}


def test_nothing_but_the_corpus_is_left_behind(broken, prepared):
    root, corpus = prepared
    folder = root / "manifest/mine"
    assert sorted(p.name for p in folder.iterdir()) == [
        ".lock",
        "1.0.0",
        "quarantine.jsonl",
        "report.json",
    ]
    assert (broken[0].parent / "i/0.png").exists()
    assert "checksums.json" in {p.name for p in corpus.directory.iterdir()}


SCRIPT = """
import sys
sys.path[:0] = {folders!r}
from pathlib import Path
from test_prepare import run
if __name__ == "__main__":
    run(Path({manifest!r}), Path({root!r}), workers=1)
"""


def kill_when(manifest, root, tmp_path, moment):
    """Start prepare in its own process group, and kill the group when `moment()` is true."""
    script = tmp_path / "script.py"
    # The folders of this file and of the helpers that it imports.
    folders = [os.path.dirname(path) for path in (__file__, inspect.getfile(make_corpus))]
    script.write_text(SCRIPT.format(folders=folders, manifest=str(manifest), root=str(root)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None and moment()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_and_restarted_gives_the_same_corpus_and_report(broken, prepared, tmp_path):
    root = tmp_path / "data"
    folder = root / "manifest/mine"

    def chunks():
        return {p.name: p.stat().st_mtime_ns for p in folder.glob("chunks-*/*.chunk")}

    kill_when(broken[0], root, tmp_path, lambda: len(chunks()) >= 2)
    kept = chunks()
    assert 2 <= len(kept) < 6
    kill_when(broken[0], root, tmp_path, lambda: len(list(folder.glob("*incomplete*"))) > 0)
    later = chunks()
    assert len(later) == 6 and all(later[name] == stamp for name, stamp in kept.items())
    corpus = run(broken[0], root)
    for name in ("quarantine.jsonl", "report.json"):
        assert (folder / name).read_text() == (prepared[0] / "manifest/mine" / name).read_text()
    same = prepared[1].directory
    assert sorted(p.name for p in corpus.directory.iterdir()) == sorted(
        p.name for p in same.iterdir()
    )
    for path in same.glob("*.array_record*"):
        assert (corpus.directory / path.name).read_bytes() == path.read_bytes()
    for name, split in corpus.splits.items():
        np.testing.assert_array_equal(split.index, prepared[1].splits[name].index)


def crash_on_red(rules, path, images):
    """Make a chunk with a decoder that crashes on one image and hangs on another."""
    for image in images:
        if image.key == "red":
            os.kill(os.getpid(), signal.SIGABRT)
        if image.key == "blue":
            time.sleep(60)
    make_chunk(rules, path, images)


def test_picture_that_kills_or_hangs_the_decoder_is_left_out_with_its_recordings(tmp_path):
    names = ["green", "red", "white", "blue"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(i))
        (tmp_path / f"{name}.wav").write_bytes(wav(seed=i))
    plan = Plan(
        tuple(
            PlannedImage(i, n, "train", n, (PlannedCaption(i, f"{n}.wav", f"{n}.wav", "", ""),))
            for i, n in enumerate(names)
        )
    )
    rules, chunks = Rules(tmp_path, None, 60.0), tmp_path / "chunks"
    make_chunks_of(plan, rules, chunks, 2, deadline=2.0, make=crash_on_red)
    lost = read_losses(plan, chunks)
    assert [(e.problem.path, e.problem.reason) for e in lost] == [
        (path, "decoder died") for path in ("red", "red.wav", "blue", "blue.wav")
    ]
    assert lost[0].problem.detail.startswith("killed its process (SIGABRT), reading this picture")
    assert lost[2].problem.detail.startswith("not done after 2 s")
    kept = kept_images(plan, lost)
    assert [(image.key, path.name) for image, path in records_of(plan, kept, chunks)] == [
        ("green", "000000+0000.chunk"),
        ("white", "000000+0002.chunk"),
    ]
    # With a better decoder, the same call reads them.
    make_chunks_of(plan, rules, chunks, 2)
    assert read_losses(plan, chunks) == []


def test_the_first_of_two_duplicates_is_kept():
    def image(i, key, *captions, split="train"):
        return PlannedImage(i, key, split, f"{key}.png", captions)

    def caption(i, key, audio):
        return PlannedCaption(i, key, audio, "", "")

    plan = without_duplicates(
        Plan(
            (
                image(0, "a", caption(0, "x", "x.wav"), caption(1, "y", "y.wav")),
                image(0, "b", caption(2, "z", "z.wav")),
                image(1, "a", caption(3, "v", "v.wav")),
                image(2, "c", caption(4, "x", "w.wav"), caption(5, "u", "u.wav")),
                image(3, "d", caption(5, "t", "t.wav")),
                image(4, "e", caption(6, "s", "y.wav"), caption(7, "r", "r.wav")),
                image(5, "a", caption(8, "q", "q.wav"), split="test"),
            )
        )
    )
    assert [(i.image_id, [c.caption_id for c in i.captions]) for i in plan.images] == [
        (0, [0, 1]),
        (2, [5]),
        (4, [7]),
        (5, [8]),
    ]
    assert [(p.path, p.reason) for p in plan.problems] == [
        ("z.wav", "duplicate id"),
        ("b.png", "duplicate id"),
        ("v.wav", "duplicate id"),
        ("a.png", "duplicate id"),
        ("w.wav", "duplicate id"),
        ("t.wav", "duplicate id"),
        ("d.png", "no audio"),
        ("y.wav", "duplicate id"),
    ]


def test_every_16_bit_value_survives(tmp_path):
    wave = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(tmp_path / "all.wav", wave, 16_000, subtype="PCM_16")
    read = read_recording(tmp_path / "all.wav", Rules(tmp_path, 16_000, 60.0), "all.wav")
    stored, rate = soundfile.read(io.BytesIO(encode_wave(read)), dtype="int16")
    assert rate == 16_000
    np.testing.assert_array_equal(stored, wave)
    over = np.array([1.5, -1.5, 0.9999999], np.float32)
    clipped = soundfile.read(io.BytesIO(encode_wave(over)), dtype="int16")[0]
    assert clipped.tolist() == [32767, -32768, 32767]


def test_any_rate_is_fine_where_the_layout_says_so(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(441, rate=44_100, channels=2))
    assert len(read_recording(tmp_path / "a.wav", Rules(tmp_path, None, 60.0), "a.wav")) == 160
    with pytest.raises(BadMedia, match="44100 Hz, published at 16000 Hz") as caught:
        read_recording(tmp_path / "a.wav", Rules(tmp_path, 16_000, 60.0), "a.wav")
    assert caught.value.fault == "wrong rate"


def test_stored_pictures_decode_as_plain_tfds(prepared):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared[1].directory)
    record = builder.as_data_source("val")[0]
    same = prepared[1].splits["val"][0]
    pixels = np.asarray(Image.open(io.BytesIO(same.image)))
    np.testing.assert_array_equal(record["image"], pixels)
    assert record["key"].decode() == same.key
    assert builder.info.description.startswith("# manifest")


def test_problems_file_of_a_killed_call_is_ignored(tmp_path):
    """If the .problems file was written and the chunk was not, both are made again."""
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "a.wav").write_bytes(wav())
    caption = PlannedCaption(0, "a.wav", "a.wav", "", "")
    plan = Plan((PlannedImage(0, "a", "train", "a.png", (caption,)),))
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    rules = Rules(tmp_path, None, 60.0)
    make_chunk(dataclasses.replace(rules, max_seconds=0.01), chunks / "000000.chunk", plan.images)
    assert len(read_losses(plan, chunks)) == 2
    (chunks / "000000.chunk").unlink()
    make_chunks_of(plan, rules, chunks, 1)
    assert read_losses(plan, chunks) == []
