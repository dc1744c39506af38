"""The robustness grid: one split under many conditions of sound and picture."""
