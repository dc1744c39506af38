"""Only the files of an index's items are served, even when files are replaced."""

import pytest

from sir_jax.data.media.picture_files import FORMATS
from sir_jax.index.folder import stamp_of
from sir_jax.page.item_files import TYPES, ItemFiles, Missing

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_picture_and_recording_that_is_always_read_can_be_served():
    assert TYPES.keys() >= {*FORMATS, "wav", "flac", "ogg", "opus", "ogg flac", "mp3"}


def test_missing_files_and_large_files_are_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    files = ItemFiles(root, {"a.png", "b.png"}, lambda name: root / name, "picture")
    with pytest.raises(Missing, match="gone"):
        files.path("a.png")
    (root / "a.png").write_bytes(PNG + b"12345")
    assert files.read("a.png", 13) == PNG + b"12345"
    with pytest.raises(Missing, match="larger than"):
        files.read("a.png", 12)
    (root / "b.png").write_text("<script>")
    with pytest.raises(Missing, match="is none any more"):
        files.path("b.png")


def test_links_out_of_the_folder_are_served_while_they_lead_to_what_was_indexed(tmp_path):
    blob, secret, root = tmp_path / "5f3a", tmp_path / "secret.png", tmp_path / "root"
    blob.write_bytes(PNG + b"blob")
    secret.write_bytes(PNG + b"secret")
    root.mkdir()
    (root / "a.png").symlink_to(blob)
    stamp = stamp_of(blob)
    for folder in (root, None):  # an index of a list of files has none
        files = ItemFiles(
            folder, {"a.png"}, lambda name: root / name, "picture", lambda name: stamp
        )
        assert files.path("a.png") == root / "a.png"
        assert files.read("a.png", 99) == PNG + b"blob"
    (root / "a.png").unlink()
    (root / "a.png").symlink_to(secret)
    for known in (lambda name: stamp, lambda name: None):
        files = ItemFiles(root, {"a.png"}, lambda name: root / name, "picture", known)
        with pytest.raises(Missing, match="no file of the index's folder, nor what was indexed"):
            files.path("a.png")
