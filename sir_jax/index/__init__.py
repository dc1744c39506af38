"""A gallery of vectors: built of a folder, kept in step with it, saved and searched."""
