"""Data sets of TFDS and of Hugging Face, as they lie on the disk."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import tensorflow_datasets as tfds
from captioned import picture
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from sir_jax.data.builders.spoken_captions.sources.read import read_captions
from sir_jax.data.builders.spoken_captions.sources.stored import is_stored
from sir_jax.data.features import KeepEncoded
from sir_jax.errors import UserError


def rows(found) -> list[tuple]:
    return [(row.picture, row.language, row.text, row.split) for row in found.rows]


def encoded(number: int, form: str) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, form)
    return file.getvalue()


def stored(tmp_path, folder):
    """Return the rows of a data set, and its pictures' bytes by their names."""
    assert is_stored(folder)
    work = tmp_path / "work"
    pictures, found = read_captions(None, folder, (), "", work)
    assert not found.problems
    return rows(found), {name: (work / name).read_bytes() for name in pictures.pictures}


class Coco(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of the form of TFDS' coco_captions."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        captions = tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64})
        features = {"image": tfds.features.Image(), "captions": captions}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(1), "validation": self._generate_examples(2)}

    def _generate_examples(self, number):
        captions = [{"text": f"chien {number}", "id": 1}, {"text": "été", "id": 2}]
        yield number, {"image": encoded(number, "PNG"), "captions": captions}


def test_a_data_set_of_tfds_in_both_of_its_formats(tmp_path):
    builder = Coco(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    folder = tmp_path / "coco/1.0.0"
    found, pictures = stored(tmp_path, folder)
    assert found == [
        ("train/00000000.png", "", "chien 1", "train"),
        ("train/00000000.png", "", "été", "train"),
        ("validation/00000000.png", "", "chien 2", "validation"),
        ("validation/00000000.png", "", "été", "validation"),
    ]
    # The same records, framed as TensorFlow frames them.
    keep = {"image": KeepEncoded()}
    serializer = ExampleSerializer(builder.info.features.get_serialized_info())
    for name in ("train", "validation"):
        record = builder.as_data_source(name, decoders=keep)[0]
        texts = [{"text": t, "id": 0} for t in record["captions"]["text"]]
        example = {"image": record["image"], "captions": texts}
        data = serializer.serialize_example(builder.info.features.encode_example(example))
        path = folder / f"coco-{name}.tfrecord-00000-of-00001"
        path.write_bytes(len(data).to_bytes(8, "little") + bytes(4) + data + bytes(4))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert stored(tmp_path / "again", folder) == (found, pictures)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="is cut or damaged; prepare the data set again"):
        stored(tmp_path / "cut", folder)


def test_a_data_set_of_hugging_face_in_both_of_its_formats(tmp_path):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption", pa.list_(pa.string())), ("url", pa.string())])
    data = encoded(1, "JPEG")
    for split in ("train", "test"):
        record = {"image": {"bytes": data, "path": None}, "caption": ["one", split], "url": "u"}
        table = pa.Table.from_pylist([record, record], schema)
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
            with pa.ipc.new_stream(file, schema) as writer:
                writer.write_table(table)
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, tmp_path / f"hub/data/{split}-00000-of-00001.parquet")
    expected = [
        (f"{split}/{row:08d}.jpg", "", text, split)
        for split in ("test", "train")
        for row in range(2)
        for text in ("one", split)
    ]
    for kind in ("saved", "hub"):
        found, pictures = stored(tmp_path / f"work-{kind}", tmp_path / kind)
        assert found == expected and set(pictures.values()) == {data}
    parquet.write_table(table.select(["url"]), tmp_path / "hub/data/a-0.parquet")
    with pytest.raises(UserError, match="has no column of pictures, only url"):
        stored(tmp_path / "none", tmp_path / "hub")
