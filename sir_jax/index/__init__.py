"""The search index: built from a folder, updated when the folder changes, saved and searched."""
