"""What an experiment is: every field with its default, its bounds and one line of documentation."""
