"""`data unpack`: a corpus as files, whose names and bytes are the corpus's."""

import pytest

from sir_jax.cli import main as cli
from sir_jax.cli.data.unpack import file_stem
from sir_jax.data.builders.spoken_scenes import SceneConfig
from sir_jax.data.corpus import open_corpus
from sir_jax.data.preparation.scenes import make_spoken_scenes

CONFIG = SceneConfig("one", 2, 1, 3, captions=1, voices=12, image_size=32, seed=1)
NAME = f"spoken_scenes/{CONFIG.name}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    make_spoken_scenes(CONFIG, root, workers=1)
    return root


def test_files_hold_what_the_records_hold(root, tmp_path, capsys):
    out = tmp_path / "files"
    argv = ["data", "unpack", NAME, f"--data_dir={root}", f"--out={out}", "--captions=1"]
    assert cli.main([*argv, "--count=2"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 pictures, 2 recordings\n"
    split = open_corpus(NAME, root).split("test")
    for record in (split[0], split[1]):
        stem, caption = file_stem(record.key, record.image_id), record.captions[0]
        assert (out / f"{stem}.png").read_bytes() == record.image
        assert (out / f"{stem}.0.flac").read_bytes() == caption.audio
        assert (out / f"{stem}.0.txt").read_text().strip() == caption.text
    assert cli.main(argv) == 0  # again, and all of them
    assert len(list(out.glob("*.png"))) == 3
    (tmp_path / "file").write_text("")
    argv = ["data", "unpack", NAME, f"--data_dir={root}", f"--out={tmp_path}/file"]
    assert cli.main(argv) == 2
    assert "/file/" in (said := capsys.readouterr().err) and "cannot be written" in said


def test_names_stay_inside_of_the_folder():
    for key in ("../../x", "/etc/x", "a/../../x", "..", "./.x", "a/.hidden", "a//b", "x/"):
        parts = file_stem(key, 7).split("/")
        assert all(part and not part.startswith(".") for part in parts), key
    assert file_stem("animals/cow.svg", 7) == "animals/cow"
