"""What a device does with a program: traces read, and the one check of a rented GPU."""
