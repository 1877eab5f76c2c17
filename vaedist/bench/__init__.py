"""Benchmarks of training on a machine, and their comparison with its limits; independent of Ray."""
