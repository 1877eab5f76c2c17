"""Scoring and inspecting a model."""
