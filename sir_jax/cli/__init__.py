"""The `sir-jax` command: one table of verbs; parsing of arguments and printing, nothing else."""

from sir_jax.cli.main import entry as entry  # loads no verb
