"""Corpora: prepared, rendered, verified, shown."""
