"""The TFDS builder of spoken_scenes: one record per image, written as ArrayRecord."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from sir_jax.data.builders.spoken_scenes.config import SPLITS, SceneConfig
from sir_jax.data.builders.spoken_scenes.generate import fingerprint, generate_chunks, read_chunks
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.work_chunks import default_workers
from sir_jax.data.features import FlacAudio


@dataclasses.dataclass(kw_only=True)
class BuilderConfig(tfds.core.BuilderConfig):
    """The parameters of a corpus, for TFDS; the name encodes all of them."""

    name: str = ""
    scenes: SceneConfig = dataclasses.field(default_factory=SceneConfig)

    def __post_init__(self):
        self.name = self.scenes.name


class Builder(tfds.core.GeneratorBasedBuilder):
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
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "image_id": np.int64,
                    "captions": tfds.features.Sequence(
                        {
                            "audio": FlacAudio(sample_rate=16_000),
                            "samples": np.int64,
                            "caption_id": np.int64,
                            "text": tfds.features.Text(),
                            "speaker": tfds.features.Text(),
                        }
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        self.generate(default_workers())
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        images = [image for image in self.plan if image.split == split]
        for image, stored in read_chunks(images, self.chunks):
            yield (
                image.image_id,
                {
                    "image": stored["image"],
                    "image_id": image.image_id,
                    "captions": [
                        {
                            "audio": audio,
                            "samples": samples,
                            "caption_id": caption.caption_id,
                            "text": caption.text,
                            "speaker": caption.speaker,
                        }
                        for caption, audio, samples in zip(
                            image.captions, stored["audio"], stored["samples"], strict=True
                        )
                    ],
                },
            )
