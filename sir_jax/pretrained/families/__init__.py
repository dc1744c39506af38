"""One rule table per family of released checkpoints."""
