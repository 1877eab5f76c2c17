"""Command line: options, one library call, printing. TensorFlow and Ray are imported inside commands only."""

from vaedist.cli.main import main

__all__ = ["main"]
