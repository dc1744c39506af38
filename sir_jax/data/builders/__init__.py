"""TFDS builders: one package per corpus, and the modules that they share."""
