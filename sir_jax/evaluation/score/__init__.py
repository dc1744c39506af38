"""The score that results are ranked by: lists, fitted weights, calibrated probabilities."""
