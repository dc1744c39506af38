"""Recall tables: rank, embed whole splits, and the `evaluate` verb."""
