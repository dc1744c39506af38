"""The TFDS builder shared by all corpora of recorded captions: one record per image."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from sir_jax.data.builders.recorded import read_chunks
from sir_jax.data.builders.recordings import Plan, PlannedImage, load_layout
from sir_jax.data.features import FlacAudio
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


class RecordedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
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
        text = tfds.features.Text
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    # The published bytes, whatever their format.
                    "image": tfds.features.Image(),
                    "image_id": np.int64,
                    "key": text(),
                    "captions": tfds.features.Sequence(
                        {
                            "audio": FlacAudio(sample_rate=16_000),
                            "samples": np.int64,
                            "caption_id": np.int64,
                            "key": text(),
                            "text": text(),
                            "speaker": text(),
                        }
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        assert self.chunks  # raises if not called by `sir-jax data prepare`
        splits: dict[str, list[PlannedImage]] = {}
        for image in self.source.kept:
            splits.setdefault(image.split, []).append(image)
        return {split: self._generate_examples(images) for split, images in splits.items()}

    def _generate_examples(self, images: Sequence[PlannedImage]):
        for image, picture, audio, samples in read_chunks(self.source.plan, images, self.chunks):
            yield (
                image.image_id,
                {
                    "image": picture,
                    "image_id": image.image_id,
                    "key": image.key,
                    "captions": [
                        {
                            "audio": flac,
                            "samples": length,
                            "caption_id": caption.caption_id,
                            "key": caption.key,
                            "text": caption.text,
                            "speaker": caption.speaker,
                        }
                        for caption, flac, length in zip(
                            image.captions, audio, samples, strict=True
                        )
                    ],
                },
            )
