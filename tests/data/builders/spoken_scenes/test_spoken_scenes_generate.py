"""Chunks are complete or absent, survive an interrupt, and are made again if a worker dies."""

import dataclasses
import io
import os
import signal
import threading
import time

import numpy as np
import pytest
import soundfile
from PIL import Image
from tensorflow_datasets.core.example_parser import ExampleParserNp

from sir_jax.data.builders.chunk_files import digest, read_contents, read_record, record_sizes
from sir_jax.data.builders.record_form import scene_features
from sir_jax.data.builders.spoken_scenes import SceneConfig, plan_corpus
from sir_jax.data.builders.spoken_scenes.generate import (
    CHUNK_IMAGES,
    fingerprint,
    generate_chunks,
)
from sir_jax.data.builders.spoken_scenes.render import render
from sir_jax.data.builders.work_chunks import chunks_of
from sir_jax.data.features import KeepEncoded
from sir_jax.errors import UserError

CONFIG = SceneConfig("one", 2 * CHUNK_IMAGES, 4, 6, captions=1, voices=12, image_size=32)
PLAN = plan_corpus(CONFIG)


def children():
    """Return the process ids of the workers, which are children of the fork server."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    parents[int(entry)] = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    own = {pid for pid, parent in parents.items() if parent == os.getpid()}
    return {pid for pid, parent in parents.items() if parent in own}


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "chunks"
    reported = []
    generate_chunks(PLAN, 32, folder, 2, reported.append)
    return folder, reported


def test_all_images_are_made_and_reported(chunks):
    folder, reported = chunks
    assert sorted(p.name for p in folder.iterdir()) == [
        "000000.chunk",
        "000024.chunk",
        "000048.chunk",
    ]
    assert reported[0] == 0 and sum(reported) == len(PLAN) == 58


def parsed(record: bytes) -> dict:
    features = scene_features()
    example = ExampleParserNp(features.get_serialized_info()).parse_example(record)
    keep = KeepEncoded()
    return features.decode_example_np(
        example, decoders={"image": keep, "captions": {"audio": keep}}
    )


def test_chunks_hold_the_planned_pictures_and_sounds(chunks):
    seen = []
    for path, images in chunks_of(PLAN, chunks[0], CHUNK_IMAGES).items():
        assert list(record_sizes(path)) == [image.image_id for image in images]
        contents = read_contents(path)
        for image in images:
            seen.append(image)
            record = read_record(path, image.image_id)
            assert len(record) == record_sizes(path)[image.image_id]
            stored = parsed(record)
            picture = Image.open(io.BytesIO(stored["image"]))
            np.testing.assert_array_equal(
                np.asarray(picture), np.asarray(render(image.scene, 32, image.looks))
            )
            captions = stored["captions"]
            for audio, samples in zip(captions["audio"], captions["samples"], strict=True):
                wave, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
                assert rate == 16_000 and len(wave) == samples > 16_000
            ids = [-1, *captions["caption_id"]]
            held = contents[contents["image_id"] == image.image_id]
            assert held["caption_id"].tolist() == ids
            digests = [digest(stored["image"]), *map(digest, captions["audio"])]
            assert [bytes(entry) for entry in held["digest"]] == digests
    assert seen == PLAN


def test_second_call_makes_only_what_is_missing(chunks, tmp_path):
    for path in chunks[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "000024.chunk").unlink()
    (tmp_path / "000024.chunk.1.part").write_bytes(b"half")
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.chunk")}
    reported = []
    generate_chunks(PLAN, 32, tmp_path, 2, reported.append)
    assert reported == [34, 24]
    after = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert sorted(after) == ["000000.chunk", "000024.chunk", "000048.chunk"]
    assert all(after[name] == stamp for name, stamp in before.items())


def test_killed_worker_is_replaced(tmp_path):
    killed = []

    def kill_one():
        while not killed:
            for pid in children():
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.005)

    plan = plan_corpus(SceneConfig("one", CHUNK_IMAGES, 1, 1, captions=4, voices=12, image_size=32))
    thread = threading.Thread(target=kill_one)
    thread.start()
    generate_chunks(plan, 32, tmp_path, 1)
    thread.join()
    assert killed
    paths = chunks_of(plan, tmp_path, CHUNK_IMAGES)
    assert sum(len(record_sizes(path)) for path in paths) == len(plan)


def test_chunk_that_cannot_be_made_stops_with_one_line(tmp_path):
    image = PLAN[0]
    caption = dataclasses.replace(image.captions[0], speaker="xx+nobody")
    with pytest.raises(UserError, match=r"making 000000.chunk failed 2 times \(exit status 1\)"):
        generate_chunks([dataclasses.replace(image, captions=(caption,))], 32, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_fingerprint_tells_plans_and_sizes_apart():
    other = plan_corpus(SceneConfig("one", 48, 4, 6, captions=1, voices=12, image_size=32, seed=1))
    assert len({fingerprint(PLAN, 32), fingerprint(PLAN, 64), fingerprint(other, 32)}) == 3
