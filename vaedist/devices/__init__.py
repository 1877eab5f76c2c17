"""Devices of a worker: strategies, GPUs, compilation and its cache."""
