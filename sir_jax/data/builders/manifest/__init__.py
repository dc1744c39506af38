"""manifest: a corpus of one's own, listed line by line."""
