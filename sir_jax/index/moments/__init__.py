"""Recordings longer than the model reads at once: their windows, and search to the second."""
