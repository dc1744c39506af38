"""Retrievers for other systems: StableHLO programs, and an encoder for MTEB."""
