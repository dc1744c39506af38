"""Sounds and pictures: read, checked, augmented, synthesised."""
