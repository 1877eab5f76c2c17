"""Normalizing flows for the posterior."""
