"""The old name of `sir_jax.config.presets`, for config files that import it."""

from sir_jax.config.presets import *  # noqa: F403
from sir_jax.config.presets import CLIP_MEAN, CLIP_STD  # noqa: F401
