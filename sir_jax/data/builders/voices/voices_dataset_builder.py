"""The TFDS builder of voices."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder


class Builder(RecordedBuilder):
    """Recordings of people with their text, without pictures."""
