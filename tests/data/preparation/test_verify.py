"""Verify finds nothing in a prepared corpus, and names each damaged byte and file."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from broken import make_corpus
from ml_collections import ConfigDict

from sir_jax.cli import main as cli
from sir_jax.data.builders.archives import Source
from sir_jax.data.builders.manifest.layout import manifest_layout
from sir_jax.data.corpus import index_path, open_corpus
from sir_jax.data.preparation.prepare import Options, prepare
from sir_jax.data.preparation.verify import check_split, verify

RECORDS = "manifest-train.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    user, root = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("prepared")
    manifest, _, _ = make_corpus(user, 20)
    layout = manifest_layout(manifest, "mine", user)
    prepare(layout, "mine", Source(str(user)), root, Options(tolerance=0.9, workers=2))
    return root


@pytest.fixture
def root(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def folder(root):
    return root / "manifest/mine/1.0.0"


def run(root, capsys, *more):
    status = cli.main(["data", "verify", "manifest/mine", "--data-dir", str(root), *more])
    return status, capsys.readouterr().out.splitlines()


def test_whole_corpus_is_whole(original, capsys):
    for more in ((), ("--full",)):
        status, lines = run(original, capsys, *more)
        assert status == 0
        assert lines == [f"manifest/mine: whole (20 pictures in {folder(original)})"]


def test_what_training_keeps_beside_a_corpus_is_no_part_of_it(root, capsys):
    trimmed = open_corpus("manifest/mine", root).to_learn(ConfigDict({"trim_silence": "speech"}))
    assert (trimmed.splits["train"].index["samples"] > 0).all()
    assert (folder(root) / "spoken-train.npz").exists()
    status, lines = run(root, capsys)
    assert status == 0 and "whole" in lines[-1]


def test_one_flipped_byte_in_a_record_is_found(root, capsys):
    path = folder(root) / RECORDS
    content = bytearray(path.read_bytes())
    # The byte is in a FLAC stream, whose own checksum is only checked by decoding.
    content[content.index(b"fLaC") + 3000] ^= 1
    path.write_bytes(content)
    status, lines = run(root, capsys)
    assert status == 1
    assert lines[0] == (
        f"{RECORDS}: its checksum has changed; restore it or prepare the corpus again"
    )
    assert lines[-1].startswith("manifest/mine: ") and "wrong" in lines[-1]


def test_missing_and_added_files_are_named(root, capsys):
    (folder(root) / RECORDS).rename(folder(root) / "manifest-train.array_record-00000-of-00002")
    status, lines = run(root, capsys)
    assert status == 1
    assert f"{RECORDS}: missing" in lines
    assert "manifest-train.array_record-00000-of-00002: not there when the corpus was made" in lines


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("samples", 7, "record 3: not as its index says"),
        ("caption_id", 9_999, "record 3: not as its index says"),
        ("image_id", 9_999, "record 3: not as its index says"),
        ("row", 500, "its index names a record that is not there"),
    ],
)
def test_index_that_does_not_match_the_records_is_found(root, field, value, message):
    split = open_corpus("manifest/mine", root).splits["train"]
    index = split.index.copy()
    index[field][np.flatnonzero(index["row"] == 3)[0]] = value
    np.savez(index_path(split.directory, "train"), index=index)
    split._index = None
    assert any(message in line for line in check_split(split, full=False))


def test_caption_that_is_twice_in_the_index_is_found(root):
    split = open_corpus("manifest/mine", root).splits["train"]
    split.index["caption_id"][1] = split.index["caption_id"][0]
    assert "split train: its index has a caption id twice" in list(check_split(split, full=False))


def test_index_that_cannot_be_read_is_found(root, capsys):
    index_path(folder(root), "val").write_bytes(b"PK no zip")
    status, lines = run(root, capsys)
    assert status == 1
    assert lines[0].startswith("index-val.npz: its checksum has changed")
    assert lines[1].startswith("split val: its index cannot be read")


def test_counts_are_compared_with_the_report(root):
    path = root / "manifest/mine/report.json"
    report = json.loads(path.read_text())
    report["splits"]["val"]["captions"] += 1
    report["rules"]["tolerance"] = 0.01
    path.write_text(json.dumps(report))
    wrong = verify(open_corpus("manifest/mine", root))
    assert "split val: 2 pictures and 4 recordings; 2 and 5 were prepared" in wrong
    assert any(line.endswith("are missing, more than was accepted") for line in wrong)
    path.unlink()
    assert verify(open_corpus("manifest/mine", root))[0].startswith("report.json: missing")


def test_full_names_the_recording_that_does_not_decode(root):
    """The record itself was written with a fault, so that all checksums agree."""

    class Cut:
        """A split whose third record has a truncated image and a truncated first recording."""

        def __init__(self, split):
            self.name, self.index, self._split = split.name, split.index, split

        def __len__(self):
            return len(self._split)

        def __getitem__(self, row):
            record = self._split[row]
            if row != 2:
                return record
            first = dataclasses.replace(record.captions[0], audio=record.captions[0].audio[:600])
            captions = (first, *record.captions[1:])
            return dataclasses.replace(record, image=record.image[:200], captions=captions)

    split = Cut(open_corpus("manifest/mine", root).splits["train"])
    assert list(check_split(split, full=False)) == []
    lines = list(check_split(split, full=True))
    assert len(lines) == 2 and all(line.startswith("split train, record 2: ") for line in lines)
    assert "damaged picture" in lines[0] and "caption" in lines[1]


def test_damaged_metadata_and_unknown_corpus_are_one_line(root, capsys):
    (folder(root) / "dataset_info.json").write_text("{")
    assert cli.main(["data", "verify", "manifest/mine", "--data-dir", str(root)]) == 2
    assert "its dataset_info.json cannot be read" in capsys.readouterr().err
    assert cli.main(["data", "verify", "flickr8k_audio", "--data-dir", str(root)]) == 2
    assert "sir-jax data prepare flickr8k_audio/official" in capsys.readouterr().err
