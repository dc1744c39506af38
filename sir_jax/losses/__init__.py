"""Losses: pure functions of arrays; no flax, no config object, no I/O."""
