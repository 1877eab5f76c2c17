"""Training objectives and their parts."""
