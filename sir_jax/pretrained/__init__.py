"""Released checkpoints -> parameter trees: one rule engine, one rule table per family."""

from sir_jax.pretrained.hub import resolve
from sir_jax.pretrained.load import load, load_encoders, preprocessing, save

__all__ = ["load", "load_encoders", "preprocessing", "resolve", "save"]
