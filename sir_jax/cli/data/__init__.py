"""The verbs of `sir-jax data`, and `samples`."""
