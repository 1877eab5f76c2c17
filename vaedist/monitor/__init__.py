"""Monitoring of runs: metrics on disk, TensorBoard, pictures and the terminal."""
