"""Audio and images: loading, checks, augmentation, synthesis."""
