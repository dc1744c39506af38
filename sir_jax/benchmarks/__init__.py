"""Speed comparisons: sir_jax and a peer are timed in the same run, and their ratio is printed."""
