"""Preemption notices of clouds, and their delivery to Ray and to runs."""
