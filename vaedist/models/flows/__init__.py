"""Normalizing flows of the posterior."""
