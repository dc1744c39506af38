"""Training: state, step, optimiser, sharding, checkpoints and the loop that ties them.

`sir_jax.training.main` is the console verb; `sir_jax.training.loop.train` is what it calls.
"""
