"""Families of released checkpoints: one module each, with its rule table."""
