"""The TFDS builder of corpora whose records lie finished in chunk files.

TFDS' own writer holds a split in memory to bring it in the order of its keys' hashes, and beyond
1 GB it spills to disk by TensorFlow, which is not installed. Here the order is made of the keys
alone. Files, order and metadata are those that TFDS would write.
"""

import itertools
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.utils.shard_utils import get_shard_boundaries

from sir_jax.data.builders.chunk_files import read_record, record_sizes
from sir_jax.data.builders.records import progress


class ChunkedBuilder(FileReaderBuilder, skip_registration=True):
    """Writes records from chunk files; a subclass says which records each split has."""

    def chunk_records(self) -> dict[str, Iterable[tuple[int, Path]]]:
        """Return for each split the image ids of its records, and the chunk file of each."""
        raise NotImplementedError

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        del dl_manager
        shards = download_config.get_shard_config()
        infos = [self._write(split, has, shards) for split, has in self.chunk_records().items()]
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _write(
        self, split: str, records: Iterable[tuple[int, Path]], shards
    ) -> tfds.core.SplitInfo:
        # The split's name is the salt of TFDS, so that no two splits have the same order.
        hasher, order, size = hashing.Hasher(split), [], 0
        for path, group in itertools.groupby(records, key=lambda entry: entry[1]):
            sizes = record_sizes(path)
            for image_id, _ in group:
                size += sizes[image_id]
                order.append((hasher.hash_key(image_id), image_id, path))
        order.sort(key=lambda entry: entry[0])
        template = self._get_filename_template(split)
        count = shards.get_number_shards(size, len(order))
        ends = get_shard_boundaries(len(order), count)
        writer = tfds_writer.ExampleWriter(self.info.file_format)
        with progress(len(order), "image", f"write {split}") as bar:
            for shard, (first, end) in enumerate(itertools.pairwise([0, *ends])):
                path = template.sharded_filepath(shard_index=shard, num_shards=count)
                writer.write(os.fspath(path), _read(order[first:end], bar.update))
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[end - first for first, end in itertools.pairwise([0, *ends])],
            num_bytes=size,
            filename_template=template,
        )


def _read(
    order: list[tuple[int, int, Path]], report: Callable[[int], None]
) -> Iterator[tuple[int, bytes]]:
    for key, image_id, path in order:
        try:
            record = read_record(path, image_id)
        except zipfile.BadZipFile as error:
            path.unlink()
            raise zipfile.BadZipFile(f"{path} is damaged ({error})") from None
        yield key, record
        report(1)
