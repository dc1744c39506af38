"""The TFDS builder of spoken_captions."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder


class Builder(RecordedBuilder):
    """Captioned pictures of one's own, the captions said by synthesisers."""
