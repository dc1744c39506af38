"""Updates of an index: what is embedded again, and that a file's absence proves little."""

import os
import shutil

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.index.folder import Passed
from sir_jax.index.index import Index
from sir_jax.index.updates import NOT_MOUNTED, plan_update
from sir_jax.inference.retriever import Retriever


@pytest.fixture(scope="module")
def model(workdir):
    return Retriever.load(workdir, batch_size=4)


@pytest.fixture
def media(folder, make_tone):
    """Return a folder of eight pictures and three recordings."""
    for number, name in enumerate(["one.wav", "deeper/two.flac", "three.ogg"]):
        soundfile.write(folder / name, make_tone(9_000 + 6_000 * number), 16_000)
    return folder


@pytest.fixture
def index(model, media):
    return Index.build(model, media)


def picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def later(path, seconds=1):
    """Set a file's time of change later."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def by_id(gallery):
    return dict(zip(gallery.ids, gallery.vectors, strict=True))


def test_update_embeds_only_what_changed(model, media, monkeypatch):
    (media / "broken.png").write_bytes(b"no picture")
    index = Index.build(model, media)
    index.add([np.zeros((8, 8, 3), np.uint8)], ["kept"])
    encoded = []
    real = Retriever.encode_pixels

    def counted(self, pixels, count=None, batch_size=None, keep=None):
        encoded.append(count)
        return real(self, pixels, count, batch_size, keep)

    monkeypatch.setattr(Retriever, "encode_pixels", counted)
    # What could not be read is tried again; nothing else is.
    assert index.update() == ([], [], [], ["broken.png"]) and encoded == [1]
    encoded.clear()

    old = by_id(index.images)
    picture(media / "new.png", 8)
    picture(media / "b.png", 9)
    later(media / "b.png")
    (media / "a.jpg").unlink()
    (media / "one.wav").unlink()
    (media / "d.bmp").write_bytes(b"BM and no more")
    done = index.update()
    assert done == (["new.png"], ["b.png"], ["a.jpg", "one.wav"], ["broken.png", "d.bmp"])
    assert encoded == [4]
    new = by_id(index.images)
    assert set(new) == {*old, "new.png"} - {"a.jpg", "d.bmp"} and "kept" in new
    assert set(index.failed) == {"broken.png", "d.bmp"}
    z = model.encode_image([media / "new.png", media / "b.png"])
    np.testing.assert_allclose([new["new.png"], new["b.png"]], z, atol=1e-6)
    assert np.abs(old["b.png"] - new["b.png"]).max() > 1e-3
    np.testing.assert_array_equal(old["C.JPEG"], new["C.JPEG"])

    picture(media / "broken.png", 3)
    later(media / "broken.png")
    (media / "d.bmp").unlink()
    assert index.update() == ([], ["broken.png"], ["d.bmp"], [])
    assert index.failed == {}
    moved = media.with_name("moved")
    media.rename(moved)
    assert index.update(moved) == ([], [], [], []) and index.root == moved


def test_update_refuses_a_file_whose_id_was_added_from_memory(model, media):
    index = Index.build(model, media)
    index.add([np.zeros((8, 8, 3), np.uint8)], ["new.png"])
    picture(media / "new.png", 8)
    with pytest.raises(UserError, match=r"new\.png is in the index already"):
        index.update()


def ids_of(index):
    return {*index.images.ids, *index.recordings.ids}


def test_a_few_files_that_are_gone_are_removed_and_many_are_not(index, media):
    ids = ids_of(index)
    for name in ("a.jpg", "C.JPEG"):
        (media / name).unlink()
    assert index.update().removed == ["C.JPEG", "a.jpg"]
    for name in ("b.png", "d.bmp", "one.wav"):
        (media / name).unlink()
    with pytest.raises(UserError) as refused:
        index.update()
    assert str(refused.value) == (
        f"3 of 9 files of the index are not in {media} any more (b.png, d.bmp, one.wav); nothing "
        "was changed: see that its drive is mounted, or give allow_removal=True"
    )
    assert ids_of(index) == ids - {"a.jpg", "C.JPEG"}
    assert index.update(allow_removal=True).removed == ["b.png", "d.bmp", "one.wav"]
    assert len(index) == 6


@pytest.mark.parametrize("state", ["missing", "empty", "other", "same names", "links to nothing"])
def test_a_folder_that_is_not_the_indexs_loses_nothing(index, media, tmp_path, state):
    ids, folder = ids_of(index), None
    moved = tmp_path / "moved"
    media.rename(moved)
    message = "holds none of the 11 files"
    if state == "missing":
        message = "is not a folder"
    elif state == "empty":
        media.mkdir()
    elif state == "links to nothing":
        media.mkdir()
        for name in ids:
            (media / name).parent.mkdir(exist_ok=True)
            (media / name).symlink_to(tmp_path / "unplugged" / name)
    else:
        folder = tmp_path / "elsewhere"
        shutil.copytree(moved, folder)
        message = "is another folder than .*: it holds 0 of its 11 files"
        for path in [path for path in folder.rglob("*.*") if path.is_file()]:
            picture(path.with_suffix(".png"), 3)
            path.unlink()
        if state == "same names":
            for path in moved.rglob("*.*"):
                (folder / path.relative_to(moved)).write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=message):
        index.update(folder)
    assert ids_of(index) == ids and index.root == media
    # Once it is back, nothing is embedded again.
    shutil.rmtree(media, ignore_errors=True)
    moved.rename(media)
    assert index.update() == ([], [], [], [])


def test_a_part_that_is_not_mounted_is_kept_until_removal_is_asked_for(model, media, tmp_path):
    (media / "many").mkdir()
    for number in range(12):
        picture(media / "many" / f"{number}.png", number)
    drive = tmp_path / "drive"
    drive.mkdir()
    for name in ("deeper/a.png", "a.jpg"):
        (media / name).rename(drive / name.replace("/", "-"))
        (media / name).symlink_to(drive / name.replace("/", "-"))
    index = Index.build(model, media)
    assert len(index) == 23
    drive.rename(tmp_path / "unplugged")
    for name in ("one.wav", "deeper/g.png", "deeper/two.flac"):
        (media / name).unlink()
    (media / "deeper" / "a.png").unlink()  # the folder is empty now
    plan = plan_update(index)
    assert plan.kept == dict.fromkeys(
        ("deeper/a.png", "deeper/g.png", "deeper/two.flac"), NOT_MOUNTED
    ) | {"a.jpg": "a link to nothing"}
    assert plan.changes.removed == ["one.wav"] and not plan.refusal
    assert index.update() == ([], [], ["one.wav"], []) and len(index) == 22
    removed = index.update(allow_removal=True).removed
    assert removed == ["a.jpg", "deeper/a.png", "deeper/g.png", "deeper/two.flac"]


def test_one_file_deleted_from_a_folder_of_its_own_is_removed(model, media):
    (media / "single").mkdir()
    picture(media / "single" / "a.png", 1)
    index = Index.build(model, media)
    (media / "single" / "a.png").unlink()
    assert index.update().removed == ["single/a.png"]


def test_content_that_changed_behind_the_same_size_and_time(index, media):
    path = media / "d.bmp"  # its size is the same for all pixels
    status, old = path.stat(), by_id(index.images)["d.bmp"]
    picture(path, 77)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert index.update() == ([], [], [], [])
    np.testing.assert_array_equal(by_id(index.images)["d.bmp"], old)
    later(media / "a.jpg")  # touched, and nothing more
    assert index.update(checksum=True) == ([], ["d.bmp"], [], [])
    assert np.abs(by_id(index.images)["d.bmp"] - old).max() > 1e-3
    # The new time of the other is known now.
    assert index.update() == index.update(checksum=True) == ([], [], [], [])


def test_an_index_without_digests_is_read_anew_with_checksum(index, media):
    index.images.stamps[:] = [stamp._replace(digest="") for stamp in index.images.stamps]
    assert index.update() == ([], [], [], [])
    assert index.update(checksum=True).changed == sorted(index.images.ids)
    assert index.update(checksum=True) == ([], [], [], [])


def test_what_failed_for_a_while_is_tried_again(model, media, monkeypatch):
    def down(self, position, source):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(Retriever, "read_pixels", down)
        index = Index.build(model, media)
    assert len(index.images) == 0 and len(index.failed) == 8
    failure = index.failed["b.png"]
    assert failure.reason.startswith(f"{media}/b.png: cannot be read (OSError: ")
    done = index.update()
    assert len(done.added) == 8 and not index.failed and len(index.images) == 8


def test_content_decides_and_everything_else_is_counted(model, media, tmp_path):
    (media / "b.png").rename(media / "picture without suffix")
    (media / "a.jpg").rename(media / "really a picture.wav")
    (media / "one.wav").rename(media / "voice.dat")
    (media / "nothing").write_bytes(b"")
    (media / ".DS_Store").write_bytes(b"x")
    (media / "linked").symlink_to(tmp_path)
    (media / "gone.png").symlink_to(tmp_path / "gone.png")
    index = Index.build(model, media)
    assert {"picture without suffix", "really a picture.wav"} < {*index.images.ids}
    assert {*index.recordings.ids} == {"voice.dat", "deeper/two.flac", "three.ogg"}
    assert {name: passed.reason for name, passed in index.passed.items()} == {
        "notes.txt": "neither a picture nor a recording",
        "nothing": "an empty file",
        ".DS_Store": "its name starts with a dot",
        "linked": "a link to a folder",
        "gone.png": "a link to nothing",
    }
    assert isinstance(index.passed["notes.txt"], Passed)


def test_files_that_are_passed_over_are_opened_once(index, media, monkeypatch):
    from sir_jax.index import folder

    opened = []

    def counted(path):
        opened.append(os.path.basename(path))
        return sniff(path)

    sniff = folder.sniff
    monkeypatch.setattr(folder, "sniff", counted)
    assert index.update() == ([], [], [], []) and opened == []
    (media / "notes.txt").write_text("other words")
    (media / "new.bin").write_bytes(b"\0\0")
    assert index.update() == ([], [], [], []) and sorted(opened) == ["new.bin", "notes.txt"]


def test_one_bad_item_costs_the_others_nothing(model, media, make_tone, monkeypatch):
    soundfile.write(media / "no sound.wav", np.zeros(0), 16_000)
    real = Retriever.encode_waves

    def overflowing(self, waves, count=None, batch_size=None, keep=None):
        rows = real(self, waves, count, batch_size, keep)
        rows[(count or 1) // 3] = np.nan
        return rows

    monkeypatch.setattr(Retriever, "encode_waves", overflowing)
    monkeypatch.setattr("sir_jax.index.embedding._require_sound", lambda model, kind: None)
    index = Index.build(model, media)
    assert len(index.images) == 8 and len(index.recordings) == 2
    faults = {name: failure.fault for name, failure in index.failed.items()}
    assert faults == {"no sound.wav": "no samples", "one.wav": "undecodable"}
    assert "its samples give no vector of finite length" in index.failed["one.wav"].reason
    with pytest.raises(UserError, match="no vector of finite length"):
        Index(model).add([media / "one.wav", media / "three.ogg"])


def test_a_model_without_finite_vectors_is_refused(model, media):
    broken = Retriever(model.cfg, jax.tree.map(lambda leaf: leaf * np.nan, model.params), 4)
    with pytest.raises(UserError, match="is damaged: its vectors are not finite"):
        Index.build(broken, media)


def test_what_shows_or_says_nothing_is_noted(model, media, make_tone, tmp_path):
    wave = make_tone(8_000)
    soundfile.write(media / "silent.wav", 0 * wave, 16_000)
    soundfile.write(media / "anti.wav", np.stack([wave, -wave], 1), 16_000)
    Image.new("RGB", (20, 20), "#ff0000").save(media / "red.png")
    index = Index.build(model, media, out=tmp_path / "i")
    assert index.noted == {
        "anti.wav": "its channels cancel each other",
        "red.png": "is of one colour (#ff0000)",
        "silent.wav": "digital silence",
    }
    index.add([np.zeros((9, 9, 3), np.uint8), (np.zeros(9_000), 16_000)], ["black", "quiet"])
    assert index.noted["black"] == "is of one colour (#000000)"
    assert index.noted["quiet"] == "digital silence"
    index.remove(["black", "quiet"])
    soundfile.write(media / "silent.wav", wave, 16_000)
    later(media / "silent.wav")
    (media / "red.png").unlink()
    index.update()
    assert index.noted == {"anti.wav": "its channels cancel each other"}
