"""Checks of this machine, a cluster and its storage."""
