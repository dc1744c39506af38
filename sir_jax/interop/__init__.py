"""Other systems' forms: StableHLO and MTEB."""
