"""The old name of `sir_jax.config.presets`, for config files that import it."""

from sir_jax.config.presets import *  # noqa: F403
