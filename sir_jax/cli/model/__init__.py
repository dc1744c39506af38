"""Verbs that make a model, measure it or hand it on."""
