"""Captions and pictures of a data set on the disk, as TFDS or Hugging Face `datasets` stores it."""

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sir_jax.data.builders.records import progress
from sir_jax.data.builders.spoken_captions.sources.rows import Found, Reader
from sir_jax.data.media.sniff import HEAD_BYTES, content_of
from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file

_TFDS, _HUGGING_FACE = "dataset_info.json", ("*.arrow", "*.parquet")
# What of the records is in memory at once.
_ROWS = 16


class Entry(NamedTuple):
    """A record of a data set: where it is, its picture's bytes, and its other fields."""

    split: str
    number: int
    picture: bytes
    fields: dict[str, Any]


def is_stored(folder: Path) -> bool:
    """Tell whether a folder holds a data set of either form."""
    return folder.is_dir() and (_is_tfds(folder) or bool(_files(folder)))


def read_stored(folder: Path, chosen: Sequence[str], pictures: Path) -> Found:
    """Read the captions of a data set, and write its pictures as files.

    Args:
      folder: of the data set: with `dataset_info.json` of TFDS, or with .arrow or .parquet files.
      chosen: languages that are asked for; none for all.
      pictures: folder that gets the pictures; those that are there already stay.

    Raises:
      UserError: it has no pictures, or cannot be read.
    """
    found = Found()
    reader = Reader(found, chosen, folder.name)
    count, entries = _tfds(folder) if _is_tfds(folder) else _hugging_face(folder)
    with progress(count, "picture", f"read {folder.name}") as bar:
        for entry in entries:
            where = f"{entry.split}#{entry.number}"
            if entry.picture:
                name = _write(pictures, entry)
                reader.add(where, entry.fields, name, entry.split)
            else:
                found.wrong(where, "the data set holds no picture here")
            bar.update(1)
    reader.close()
    return found


def _write(pictures: Path, entry: Entry) -> str:
    form = content_of(entry.picture[:HEAD_BYTES]).format
    suffix = {"jpeg": "jpg"}.get(form, form.replace(" ", "") or "bin")
    name = f"{entry.split}/{entry.number:08d}.{suffix}"
    path = pictures / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(entry.picture)
    return name


def _is_tfds(folder: Path) -> bool:
    return (folder / _TFDS).is_file() and (folder / "features.json").is_file()


def _tfds(folder: Path) -> tuple[int, Iterator[Entry]]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    # Any exception, by what is wrong with its metadata.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: TFDS cannot open it ({reason}); prepare the data set again"
        ) from None
    features = builder.info.features
    images = [key for key, form in features.items() if isinstance(form, tfds.features.Image)]
    if not images:
        raise UserError(f"{folder}: has no pictures, only {', '.join(features)}")
    count = sum(split.num_examples for split in builder.info.splits.values())
    return count, _tfds_entries(builder, images)


def _tfds_entries(builder, images: list[str]) -> Iterator[Entry]:
    from sir_jax.data.features import KeepEncoded

    features = builder.info.features
    decoders = {key: KeepEncoded() for key in images}
    for name, split in builder.info.splits.items():
        if builder.info.file_format.value == "array_record":
            records = iter(builder.as_data_source(name, decoders=decoders))
        else:
            records = (
                features.deserialize_example_np(data, decoders=decoders)
                for path in split.filepaths
                for data in tfrecords(Path(path))
            )
        for number, record in enumerate(records):
            fields = {key: _plain(value) for key, value in record.items() if key not in images}
            yield Entry(name, number, record[images[0]], fields)


def tfrecords(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file, which TFDS reads by TensorFlow alone.

    Each has its length in 8 bytes, 4 of a checksum, the record, and 4 of its checksum.

    Raises:
      UserError: the file is cut, or is no TFRecord file.
    """
    with path.open("rb") as file:
        while head := file.read(12):
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 1 << 63
            data = file.read(size + 4) if size < 1 << 31 else b""
            if len(data) < size + 4:
                raise UserError(f"{path}: is cut or damaged; prepare the data set again")
            yield data[:-4]


def _plain(value: Any) -> Any:
    """Return a field as JSON would have it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return (split, file) of a data set by Hugging Face, in their order."""
    found = []
    for pattern in _HUGGING_FACE:
        for path in sorted(folder.rglob(pattern)):
            # What `datasets` computed and keeps beside the data.
            if path.name.startswith(("cache-", "tmp")):
                continue
            if path.suffix == ".parquet":
                split = path.name.partition("-")[0].removesuffix(".parquet")
            else:
                split = path.parent.name if path.parent != folder else _state(folder)
            found.append((split, path))
    return found


def _state(folder: Path) -> str:
    """Return the split that a lone data set says it is; 'train' if none."""
    try:
        return json.loads((folder / "state.json").read_text())["_split"] or "train"
    except (OSError, ValueError, LookupError, TypeError):
        return "train"


def _hugging_face(folder: Path) -> tuple[int, Iterator[Entry]]:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            f"{folder}: to read it pyarrow is needed; run: pip install 'sir_jax[train]'"
        ) from None
    files = _files(folder)
    opened = [_batches(path) for _, path in files]
    column = _image_column(folder, opened[0][1])
    entries = _hugging_face_entries(files, [batches for *_, batches in opened], column)
    return sum(count for count, *_ in opened), entries


def _batches(path: Path) -> tuple[int, Any, Iterator[Any]]:
    """Return the number of rows of a file, its schema, and its rows in batches."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        if path.suffix == ".parquet":
            file = parquet.ParquetFile(path)
            return file.metadata.num_rows, file.schema_arrow, file.iter_batches(_ROWS)
        # `datasets` writes streams.
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); save the data set again") from None
    parts = (table.slice(at, _ROWS) for at in range(0, len(table), _ROWS))
    return len(table), table.schema, parts


def _image_column(folder: Path, schema) -> str:
    import pyarrow as pa

    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return field.name
    for field in schema:
        if pa.types.is_binary(field.type) and "image" in field.name:
            return field.name
    raise UserError(f"{folder}: has no column of pictures, only {', '.join(schema.names)}")


def _hugging_face_entries(files, batches, column: str) -> Iterator[Entry]:
    numbers: dict[str, int] = {}
    for (split, _), parts in zip(files, batches, strict=True):
        for part in parts:
            for record in part.to_pylist():
                number = numbers.setdefault(split, 0)
                numbers[split] += 1
                picture = record.pop(column)
                picture = picture.get("bytes") if isinstance(picture, dict) else picture
                fields = {k: v for k, v in record.items() if not isinstance(v, bytes)}
                yield Entry(split, number, picture or b"", fields)
