"""What a config needs of a TPU pod, found out by the TPU compiler on a machine without a TPU."""
