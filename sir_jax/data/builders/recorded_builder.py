"""The TFDS builder shared by all corpora of recorded captions: one record per image."""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from sir_jax.data.builders.chunked_builder import ChunkedBuilder
from sir_jax.data.builders.record_form import published_features
from sir_jax.data.builders.recorded import records_of
from sir_jax.data.builders.recordings import Plan, PlannedImage, load_layout
from sir_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The chunks that `sir-jax data prepare` made: their folder, the plan, and the kept images."""

    folder: Path
    plan: Plan
    kept: tuple[PlannedImage, ...]


def configs_of(name: str) -> list[tfds.core.BuilderConfig]:
    """Return the TFDS configs of a published corpus, the default first."""
    configs = load_layout(name).configs.items()
    return [tfds.core.BuilderConfig(name=config, description=text) for config, text in configs]


class RecordedBuilder(ChunkedBuilder, skip_registration=True):
    """Images with recorded captions, read from finished chunks."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    # TFDS cannot read our checksums.tsv, which has '-' where a publisher states no checksum. It
    # does not need to: nothing is downloaded.
    url_infos = {}

    # `sir-jax data prepare` sets this.
    source: Chunks | None = None

    @property
    def chunks(self) -> Path:
        """Return the folder of the chunks.

        Raises:
          UserError: the builder was not called by `sir-jax data prepare`.
        """
        if self.source is None:
            raise UserError(
                f"{self.name!r} is made by `sir-jax data prepare {self.name} --archives DIR`, then "
                "TFDS reads it with tfds.builder_from_directory"
            )
        return self.source.folder

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=published_features())

    def chunk_records(self) -> dict[str, list[tuple[int, Path]]]:
        """Return for each split the image ids of its records, and the chunk file of each."""
        folder, splits = self.chunks, {}
        for image, path in records_of(self.source.plan, self.source.kept, folder):
            splits.setdefault(image.split, []).append((image.image_id, path))
        return splits
