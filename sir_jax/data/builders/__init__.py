"""TFDS builder packages, one folder per corpus."""
