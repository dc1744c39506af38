"""The TFDS builder of tux_paint_stamps."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder


class Builder(RecordedBuilder):
    """Pictures of a children's drawing program, named by people and synthesisers."""
