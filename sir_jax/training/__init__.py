"""Training: set-up, state, optimiser, step, loop, checkpoints and metrics.

The verb `sir-jax train` calls `sir_jax.training.loop.train`.
"""
