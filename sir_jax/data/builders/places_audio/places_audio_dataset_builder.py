"""The TFDS builder of places_audio."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder, configs_of


class Builder(RecordedBuilder):
    """Places Audio: spontaneous spoken descriptions of photographs of places."""

    BUILDER_CONFIGS = configs_of("places_audio")
