"""The TFDS builder of manifest: any pictures with any recordings."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder


class Builder(RecordedBuilder):
    """Pictures and recordings that their owner lists, line by line."""
