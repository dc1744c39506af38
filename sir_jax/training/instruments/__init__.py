"""What tells how a run spends its time: goodput, operations a second, traces."""
