"""Corpora and the input pipeline: audio, images, builders, batches."""
