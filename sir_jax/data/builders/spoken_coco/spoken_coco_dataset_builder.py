"""The TFDS builder of spoken_coco."""

from sir_jax.data.builders.recorded_builder import RecordedBuilder, configs_of


class Builder(RecordedBuilder):
    """SpokenCOCO: the captions of COCO's photographs, read aloud."""

    BUILDER_CONFIGS = configs_of("spoken_coco")
