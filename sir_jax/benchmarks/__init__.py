"""Side-by-side speed measurements: ours and a peer in the same run, ratios printed."""
