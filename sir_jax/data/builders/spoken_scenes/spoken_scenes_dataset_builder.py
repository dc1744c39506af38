"""The TFDS builder of spoken_scenes: one record per image, written as ArrayRecord."""

import dataclasses
import functools
from pathlib import Path

import tensorflow_datasets as tfds

from sir_jax.data.builders.chunked_builder import ChunkedBuilder
from sir_jax.data.builders.record_form import scene_features
from sir_jax.data.builders.spoken_scenes.config import SceneConfig
from sir_jax.data.builders.spoken_scenes.generate import (
    CHUNK_IMAGES,
    fingerprint,
    generate_chunks,
)
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.work_chunks import chunks_of, default_workers


@dataclasses.dataclass(kw_only=True)
class BuilderConfig(tfds.core.BuilderConfig):
    """The parameters of a corpus, for TFDS; the name encodes all of them."""

    name: str = ""
    scenes: SceneConfig = dataclasses.field(default_factory=SceneConfig)

    def __post_init__(self):
        self.name = self.scenes.name


class Builder(ChunkedBuilder):
    """Rendered scenes with spoken captions by synthetic voices."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    builder_config: BuilderConfig

    @functools.cached_property
    def plan(self):
        """Return the planned images of every split."""
        return plan_corpus(self.builder_config.scenes)

    @functools.cached_property
    def chunks(self) -> Path:
        """Return the folder of the chunks, which are kept until the records are written."""
        name = fingerprint(self.plan, self.builder_config.scenes.image_size)
        return Path(self.data_path).parent / f"chunks-{name}"

    def generate(self, workers: int, report=lambda images: None) -> None:
        """Make the missing chunks; see `generate_chunks`."""
        generate_chunks(
            self.plan, self.builder_config.scenes.image_size, self.chunks, workers, report
        )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=scene_features())

    def chunk_records(self) -> dict[str, list[tuple[int, Path]]]:
        """Return for each split the image ids of its records, and the chunk file of each."""
        self.generate(default_workers())
        splits: dict[str, list[tuple[int, Path]]] = {
            split: [] for split in self.builder_config.scenes.splits
        }
        for path, images in chunks_of(self.plan, self.chunks, CHUNK_IMAGES).items():
            for image in images:
                splits[image.split].append((image.image_id, path))
        return splits
