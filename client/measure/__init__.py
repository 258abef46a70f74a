"""Parameters of a lesion, one family a file."""
