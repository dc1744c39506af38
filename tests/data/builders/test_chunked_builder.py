"""Records are written in TFDS' order, into TFDS' files, without its shuffler and TensorFlow."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from broken import picture
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.example_parser import ExampleParserNp

from sir_jax.data.builders.chunk_files import new_chunk
from sir_jax.data.builders.chunked_builder import ChunkedBuilder
from sir_jax.data.builders.record_form import scene_features, scene_record
from sir_jax.data.builders.records import write_records
from sir_jax.errors import UserError

IMAGES = {"train": range(100, 170), "test": range(5)}
VOICE = {"speaker": "a", "language": "fr", "engine": "human"}


def content(image_id):
    """Return the bytes of a picture and of the recordings of an image, by caption id."""
    rng = np.random.default_rng(image_id)
    sounds = {10 * image_id + i: rng.bytes(int(rng.integers(500, 3_000))) for i in range(2)}
    return picture(image_id), sounds


class Written(ChunkedBuilder, skip_registration=True):
    """The builder that is tested."""

    VERSION = tfds.core.Version("1.0.0")
    name = "noise"
    chunks = None

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=scene_features())

    def chunk_records(self):
        return {
            split: [(i, self.chunks / f"{i // 10}.chunk") for i in ids]
            for split, ids in IMAGES.items()
        }


class Plain(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The same corpus as TFDS writes it."""

    VERSION = tfds.core.Version("1.0.0")
    name = "noise"
    chunks = None
    _info = Written._info

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(ids) for split, ids in IMAGES.items()}

    def _generate_examples(self, ids):
        for image_id in ids:
            image, sounds = content(image_id)
            captions = [
                {"audio": s, "samples": len(s), "caption_id": i, "text": f"{i}", **VOICE}
                for i, s in sounds.items()
            ]
            yield image_id, {"image": image, "image_id": image_id, "captions": captions}


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks")
    for first in sorted({i // 10 for ids in IMAGES.values() for i in ids}):
        with new_chunk(folder / f"{first}.chunk") as chunk:
            for image_id in range(10 * first, 10 * first + 10):
                image, sounds = content(image_id)
                captions = [SimpleNamespace(caption_id=i, text=f"{i}", **VOICE) for i in sounds]
                planned = SimpleNamespace(image_id=image_id, captions=captions)
                lengths = {i: len(sound) for i, sound in sounds.items()}
                record = scene_record(planned, image, sounds, lengths)
                chunk.add(image_id, record, image, sounds)
    return folder


def made(make, chunks, root):
    builder = make(data_dir=str(root), file_format="array_record")
    builder.chunks = chunks
    write_records(builder, num_shards=3)
    return root / "noise/1.0.0"


def records(path):
    parse = ExampleParserNp(scene_features().get_serialized_info()).parse_example
    source = ArrayRecordDataSource([str(path)])
    # As text, because comparing arrays gives arrays.
    return [repr(parse(source[row])) for row in range(len(source))]


def test_files_order_and_metadata_are_those_of_tfds(chunks, tmp_path):
    ours, theirs = (made(make, chunks, tmp_path / make.__name__) for make in (Written, Plain))
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    assert sum("train.array_record" in name for name in names) == 3
    ids = []
    for name in names:
        if "array_record" in name:
            mine = records(ours / name)
            assert mine == records(theirs / name)
            ids += [re.search(r"'image_id': (?:array\()?\[?(\d+)", text)[1] for text in mine]
        else:
            a, b = (json.loads((folder / name).read_text()) for folder in (ours, theirs))
            assert a.pop("moduleName", "") == b.pop("moduleName", "")
            assert a == b
    planned = [str(i) for split in ("test", "train") for i in IMAGES[split]]
    assert sorted(ids) == sorted(planned) and ids != planned


def test_the_shuffler_of_tfds_which_spills_to_disk_by_tensorflow_is_not_used(
    chunks, tmp_path, monkeypatch
):
    def spill(**_):
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(shuffle, "Shuffler", spill)
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        made(Plain, chunks, tmp_path / "plain")
    assert len(list(made(Written, chunks, tmp_path / "written").glob("*.array_record-*"))) == 6


def test_a_damaged_chunk_is_made_again_by_the_next_call(chunks, tmp_path):
    for path in chunks.glob("*.chunk"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "12.chunk"
    data = bytearray(broken.read_bytes())
    data[1_000] ^= 1
    broken.write_bytes(data)
    with pytest.raises(UserError, match=r"12.chunk is damaged \(Bad CRC-32 .*; run the same comm"):
        made(Written, tmp_path, tmp_path / "out")
    assert not broken.exists()
