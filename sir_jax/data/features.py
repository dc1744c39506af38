"""TFDS features that do not import TensorFlow.

Every prepared corpus names this module in its features.json: it must keep its name.
"""

import io

import numpy as np
import soundfile
import tensorflow_datasets as tfds

# `tfds.features.Audio` would import TensorFlow even for reading.
from tensorflow_datasets.core.features import feature as feature_lib


class FlacAudio(tfds.features.FeatureConnector):
    """Mono int16 audio, stored as FLAC bytes; reads as int16 [N], or as bytes with `KeepEncoded`.

    Args:
      sample_rate: in Hz.
      doc: documentation of the feature, for TFDS.
    """

    def __init__(self, *, sample_rate: int = 16_000, doc=None):
        super().__init__(doc=doc)
        self.sample_rate = sample_rate

    def get_tensor_info(self):
        return feature_lib.TensorInfo(shape=(None,), dtype=np.int16)

    def get_serialized_info(self):
        return feature_lib.TensorInfo(shape=(), dtype=np.object_)

    def encode_example(self, example_data) -> bytes:
        """Return FLAC bytes for int16 [N]; FLAC bytes are returned unchanged."""
        if isinstance(example_data, (bytes, bytearray)):
            return bytes(example_data)
        stream = io.BytesIO()
        soundfile.write(stream, example_data, self.sample_rate, format="FLAC", subtype="PCM_16")
        return stream.getvalue()

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """Return int16 [N]."""
        return soundfile.read(io.BytesIO(example_data), dtype="int16")[0]

    def decode_example(self, tfexample_data):
        raise TypeError("FlacAudio reads through as_data_source, not tf.data")

    def to_json_content(self):
        return {"sample_rate": self.sample_rate}

    # TFDS passes the argument by this name.
    @classmethod
    def from_json_content(cls, value):
        return cls(sample_rate=int(value["sample_rate"]))


class KeepEncoded(tfds.decode.SkipDecoding):
    """Return a feature's stored bytes, also within a sequence, where `SkipDecoding` fails."""

    def decode_batch_example_np(self, serialized_example):
        """Return the stored values of a sequence."""
        return serialized_example
