"""Scanning small folders, and comparing two scans."""

import os

import pytest

from sir_jax.errors import UserError
from sir_jax.index.folder import Changes, Stamp, compare, kind_of, scan_folder, stamp_of


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_kinds():
    names = ["a.jpg", "a.JPEG", "a.png", "a.webp", "a.bmp", "a.gif"]
    assert {kind_of(name) for name in names} == {"image"}
    assert {kind_of(name) for name in ["x/a.wav", "a.FLAC", "a.ogg", "a.mp3"]} == {"speech"}
    assert [kind_of(name) for name in ["a.txt", "png", ".png", "a.png.part", ""]] == [None] * 5


def test_scan(tmp_path):
    root = tmp_path / "root"
    for name in [
        "b.png",
        "a/z.wav",
        "a/b/c.JPG",
        "notes.txt",
        ".hidden.png",
        ".trash/d.png",
        "a/._b.png",
        "folder.png/e.gif",
    ]:
        touch(root / name, name.encode())
    touch(tmp_path / "elsewhere" / "f.png", b"123")
    (root / "link.png").symlink_to(tmp_path / "elsewhere" / "f.png")
    (root / "broken.png").symlink_to(tmp_path / "nothing")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    stamps = scan_folder(root)
    assert list(stamps) == ["a/b/c.JPG", "a/z.wav", "b.png", "folder.png/e.gif", "link.png"]
    status = (root / "b.png").stat()
    assert stamps["b.png"] == Stamp(5, status.st_mtime_ns) == stamp_of(root / "b.png")
    assert stamps["link.png"].size == 3
    assert scan_folder(str(root)) == stamps
    assert stamp_of(root / "none") is None


def test_not_a_folder(tmp_path):
    touch(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path / "none"):
        with pytest.raises(UserError, match="is not a folder; give one"):
            scan_folder(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path):
    touch(tmp_path / "a" / "b.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(UserError, match="a cannot be read"):
            scan_folder(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_compare():
    before = {"same": Stamp(1, 2), "grown": Stamp(1, 2), "later": Stamp(1, 2), "gone": Stamp(1, 2)}
    now = {
        "same": Stamp(1, 2),
        "grown": Stamp(2, 2),
        "later": Stamp(1, 3),
        "z": Stamp(0, 0),
        "new": Stamp(0, 0),
    }
    assert compare(before, now) == Changes(["new", "z"], ["grown", "later"], ["gone"])
    assert compare(before, before) == Changes([], [], [])
