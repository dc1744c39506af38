"""The TFDS builder of flickr8k_audio."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder, configs_of


class Builder(RecordedBuilder):
    """Flickr 8k Audio Captions: five read captions of each of 8,000 photographs."""

    BUILDER_CONFIGS = configs_of("flickr8k_audio")
