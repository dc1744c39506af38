"""Make the small encoders that ship with sir_jax; each learns alone, neither meets the other."""
