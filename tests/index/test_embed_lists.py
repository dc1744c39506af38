"""Embedding in chunks: resuming, sharding, and what makes a done chunk be embedded again."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.index import embed_lists
from sir_jax.index.embed_lists import ChunkPlan, embed_list, read_chunks
from sir_jax.index.folder import scan_folder
from sir_jax.index.gallery import load_stored
from sir_jax.index.index import Index
from sir_jax.index.items import item_of_path, items_in_folder
from sir_jax.inference.retriever import Retriever


@pytest.fixture(scope="module")
def model(workdir):
    return Retriever.load(workdir, batch_size=4)


@pytest.fixture
def media(folder, make_tone):
    """Return a folder of eight pictures, one broken, and three recordings."""
    for number, name in enumerate(["one.wav", "deeper/two.flac", "three.ogg"]):
        soundfile.write(folder / name, make_tone(9_000 + 6_000 * number), 16_000)
    (folder / "d.bmp").write_bytes(b"BM and no more")
    return folder


def plan_of(root, size=3):
    stamps = scan_folder(root)
    return ChunkPlan.of_items(items_in_folder(root, stamps, stamps), size)


def test_chunks_hold_one_kind_and_shards_share_them(media):
    plan = plan_of(media)
    assert [len(plan.chunk(n)) for n in range(len(plan.chunks))] == [3, 3, 2, 3]
    assert [item.id for item in plan.chunk(2)] == ["e.gif", "f.webp"]
    assert {item.kind for item in plan.chunk(3)} == {"speech"}
    assert [list(plan.of_shard((i, 3))) for i in range(3)] == [[0, 3], [1], [2]]
    with pytest.raises(UserError, match=r"b\.png is in the list twice"):
        ChunkPlan.of_items([item_of_path("b.png"), item_of_path("b.png")])


def test_chunks_hold_the_same_as_an_index_of_the_folder(model, media, tmp_path):
    plan, out, done = plan_of(media), tmp_path / "out", []
    counts = embed_list(model, plan, out, done=done.append)
    assert counts == {"embedded": 10, "failed": 1, "skipped": 0} and sum(done) == 11
    stored, failed, _ = read_chunks(model, plan, out)
    images, recordings = (load_stored(kind, stored[kind], 32) for kind in ("image", "speech"))
    index = Index.build(model, media)
    assert list(images.ids) == list(index.images.ids)
    np.testing.assert_allclose(images.vectors, index.images.vectors, atol=1e-6)
    assert list(recordings.ids) == list(index.recordings.ids)
    assert list(recordings.stamps) == list(index.recordings.stamps)
    np.testing.assert_allclose(recordings.vectors, index.recordings.vectors, atol=1e-5)
    assert failed == index.failed and list(failed) == ["d.bmp"]


def test_all_shards_together_embed_the_whole_list(model, media, tmp_path):
    plan = plan_of(media)
    embed_list(model, plan, tmp_path, shard=(1, 2))
    with pytest.raises(UserError, match="2 of 4 chunks are not there yet.*: 0, 2; run"):
        read_chunks(model, plan, tmp_path)
    embed_list(model, plan, tmp_path, shard=(0, 2))
    stored = read_chunks(model, plan, tmp_path).galleries
    assert len(stored["image"].ids) == 7 and len(stored["speech"].ids) == 3


def test_done_chunks_are_skipped_and_changed_ones_embedded_again(model, media, tmp_path):
    embed_list(model, plan_of(media), tmp_path)
    # What could not be read is tried again.
    again = embed_list(model, plan_of(media), tmp_path)
    assert again == {"embedded": 0, "failed": 1, "skipped": 10}
    # A file of the first chunk has changed.
    path = media / "b.png"
    Image.new("RGB", (9, 9)).save(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    counts = embed_list(model, plan_of(media), tmp_path)
    assert counts == {"embedded": 3, "failed": 1, "skipped": 7}
    # The broken file, which is in the second chunk, has been repaired.
    Image.new("RGB", (9, 9)).save(media / "d.bmp")
    counts = embed_list(model, plan_of(media), tmp_path)
    assert counts == {"embedded": 1, "failed": 0, "skipped": 10}
    stored, failed, _ = read_chunks(model, plan_of(media), tmp_path)
    assert list(stored["image"].ids)[2:5] == ["b.png", "d.bmp", "deeper/a.png"] and not failed
    # The list has changed.
    (media / "f.webp").unlink()
    with pytest.raises(UserError, match="another model or list: 2; run"):
        read_chunks(model, plan_of(media), tmp_path)
    counts = embed_list(model, plan_of(media), tmp_path)
    assert counts == {"embedded": 1, "failed": 0, "skipped": 9}
    # The chunks are of another model.
    other = Retriever(model.cfg, jax.tree.map(jax.numpy.negative, model.params))
    with pytest.raises(UserError, match="4 of 4 chunks"):
        read_chunks(other, plan_of(media), tmp_path)


def test_errors_raise_and_damaged_chunks(model, media, tmp_path):
    with pytest.raises(UserError, match=r"d\.bmp"):
        embed_list(model, plan_of(media), tmp_path, errors="raise")
    plan = plan_of(media)
    embed_list(model, plan, tmp_path)
    matrix = tmp_path / embed_lists.FOLDER / "000001.safetensors"
    whole = matrix.read_bytes()
    for damaged, message in (
        (whole[:-4], "is truncated"),
        (
            whole[:-4] + np.float32(np.nan).tobytes(),
            r"the vector of deeper/g\.png \(row 1\) is no unit",
        ),
        (whole[:-1] + bytes([whole[-1] ^ 0x80]), "its checksum differs"),
    ):
        matrix.write_bytes(damaged)
        with pytest.raises(UserError, match=r"000001\.safetensors " + ".*" + message):
            load_stored("image", read_chunks(model, plan, tmp_path).galleries["image"], 32)
        counts = embed_list(model, plan, tmp_path)
        assert counts == {"embedded": 2, "failed": 1, "skipped": 8}
        assert matrix.read_bytes() == whole
    (tmp_path / embed_lists.FOLDER / "000001.json").write_text("{")
    with pytest.raises(UserError, match=r"000001\.json cannot be read"):
        embed_list(model, plan, tmp_path)


def test_two_processes_of_one_shard(model, media, tmp_path):
    with embed_lists.only_one(tmp_path / embed_lists.FOLDER / "lock-0-of-1"):
        with pytest.raises(UserError, match="another process"):
            embed_list(model, plan_of(media), tmp_path)


SCRIPT = """
import sys
from sir_jax.index import embed_lists
from sir_jax.index.index import Index
of_items = embed_lists.ChunkPlan.of_items
embed_lists.ChunkPlan.of_items = classmethod(lambda cls, items, size=2: of_items(items, 2))
print("made", len(Index.build(sys.argv[1], sys.argv[2], out=sys.argv[3])), flush=True)
"""


def test_killed_and_resumed(model, workdir, tmp_path):
    root, out = tmp_path / "many", tmp_path / "out"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(400):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:03d}.png")
    command = [sys.executable, "-c", SCRIPT, workdir, root, out]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    marks = out / embed_lists.FOLDER
    while len(list(marks.glob("*.json"))) < 5:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in marks.glob("*.json")}
    assert 5 <= len(done) < 200 and not (out / "index.json").exists()
    kept = json.loads(min(done).read_text())["ids"]

    # The chunks of the killed process are used: their files keep their times.
    stamps = scan_folder(root)
    plan = ChunkPlan.of_items(items_in_folder(root, stamps, stamps), 2)
    counts = embed_list(model, plan, out)
    assert counts["skipped"] == 2 * len(done) and counts["embedded"] == 400 - 2 * len(done)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    stored, failed, _ = read_chunks(model, plan, out)
    images = load_stored("image", stored["image"], 32)
    assert images.ids == [f"{number:03d}.png" for number in range(400)] and not failed
    z = model.encode_image([root / name for name in kept])
    np.testing.assert_allclose(images.vectors[[images.rows[name] for name in kept]], z, atol=1e-6)
