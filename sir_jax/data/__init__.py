"""Corpora and the input pipeline: media, builders, random access, training batches."""
