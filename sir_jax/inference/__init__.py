"""Clips and pictures to vectors and tokens, match scores and attention; releases."""
