"""The version of vaedist."""

__version__ = "0.1.0"
