"""The fields of a corpus' records, and how a record is made; imported late, because it takes TFDS.

Worker processes make the records, so that the last step of a preparation only copies bytes.
"""

import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from sir_jax.data.features import FlacAudio


def published_features() -> tfds.features.FeaturesDict:
    """Return the fields of a record of a published corpus, or of a user's own."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            # The published bytes, whatever their format.
            "image": tfds.features.Image(),
            "image_id": np.int64,
            "key": text(),
            "captions": tfds.features.Sequence({**_caption(), "key": text()}),
        }
    )


def scene_features() -> tfds.features.FeaturesDict:
    """Return the fields of a record of spoken_scenes, which has no published keys."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "image_id": np.int64,
            "captions": tfds.features.Sequence(_caption()),
        }
    )


def published_record(
    image: Any, picture: bytes, sounds: dict[int, bytes], lengths: dict[int, int]
) -> bytes:
    """Return the record of an image of a published corpus, or of a user's own.

    Args:
      image: the planned image.
      picture: its bytes.
      sounds: by caption id, the FLAC bytes of each recording that is usable.
      lengths: the numbers of samples, likewise.
    """
    example = _example(image, picture, sounds, lengths)
    captions = [
        {**fields, "key": caption.key}
        for caption, fields in zip(_usable(image, sounds), example["captions"], strict=True)
    ]
    return _record(published_features, {**example, "key": image.key, "captions": captions})


def scene_record(
    image: Any, picture: bytes, sounds: dict[int, bytes], lengths: dict[int, int]
) -> bytes:
    """Return the record of an image of spoken_scenes; see `published_record`."""
    return _record(scene_features, _example(image, picture, sounds, lengths))


def _caption() -> dict[str, Any]:
    return {
        "audio": FlacAudio(sample_rate=16_000),
        "samples": np.int64,
        "caption_id": np.int64,
        "text": tfds.features.Text(),
        "speaker": tfds.features.Text(),
        "language": tfds.features.Text(),
        "engine": tfds.features.Text(),
    }


def _usable(image, sounds) -> list:
    return [caption for caption in image.captions if caption.caption_id in sounds]


def _example(image, picture, sounds, lengths) -> dict[str, Any]:
    captions = [
        {
            "audio": sounds[caption.caption_id],
            "samples": lengths[caption.caption_id],
            "caption_id": caption.caption_id,
            "text": caption.text,
            "speaker": caption.speaker,
            "language": caption.language,
            "engine": caption.engine,
        }
        for caption in _usable(image, sounds)
    ]
    return {"image": picture, "image_id": image.image_id, "captions": captions}


@functools.cache
def _form(features) -> tuple[tfds.features.FeaturesDict, ExampleSerializer]:
    form = features()
    return form, ExampleSerializer(form.get_serialized_info())


def _record(features, example: dict[str, Any]) -> bytes:
    form, serializer = _form(features)
    filled = serializer.get_tf_example(form.encode_example(example))
    # Else the order of the fields is another one in each process.
    return filled.SerializeToString(deterministic=True)
