"""Only the files of an index's items are served, even when files are replaced."""

import pytest

from sir_jax.data.media.sound_folder import SUFFIXES as SPEECH_SUFFIXES
from sir_jax.index.folder import IMAGE_SUFFIXES
from sir_jax.page.item_files import TYPES, ItemFiles, Missing


def test_every_file_type_of_an_index_can_be_served():
    assert TYPES.keys() >= {*IMAGE_SUFFIXES, *SPEECH_SUFFIXES}


def test_missing_files_links_out_of_the_folder_and_large_files_are_refused(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    files = ItemFiles(root, {"a.png", "b.txt"}, lambda name: root / name, "picture")
    with pytest.raises(Missing, match="gone"):
        files.path("a.png")
    (root / "a.png").symlink_to(secret)
    with pytest.raises(Missing, match="no file of the index's folder"):
        files.path("a.png")
    (root / "a.png").unlink()
    (root / "a.png").write_bytes(b"12345")
    assert files.read("a.png", 5) == b"12345"
    with pytest.raises(Missing, match="larger than"):
        files.read("a.png", 4)
    (root / "b.txt").write_text("words")
    with pytest.raises(Missing):
        files.path("b.txt")
    with pytest.raises(Missing, match="not made of a folder"):
        ItemFiles(None, {"a.png"}, lambda name: root / name, "picture").path("a.png")
