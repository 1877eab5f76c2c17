"""Preemption notices of clouds, brought to Ray and to a run."""
