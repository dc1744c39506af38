"""Training: state, step, optimiser, sharding, checkpoints and the loop that ties them.

`sir_jax.cli.train` is the console verb; `sir_jax.training.loop.train` is what it calls.
"""
