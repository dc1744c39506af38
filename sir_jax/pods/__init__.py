"""Compile a config for TPU pods without a TPU, and report memory, arithmetic and traffic."""
