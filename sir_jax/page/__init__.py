"""The local page of `sir-jax demo`: a server, its decoders, and what the browser gets."""
