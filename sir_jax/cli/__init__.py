"""The ``sir-jax`` command: a table of verbs; parsing of arguments and printing, nothing else."""
