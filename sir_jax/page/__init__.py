"""The local page of `sir-jax demo`: the server, its decoder processes, and the browser's files."""
