"""What a sweep left behind: its trials, how they went, and a report of them. Needs neither Ray nor TensorFlow."""

from vaedist.sweeps.folder import SweepFolder, Trial, TrialLog

__all__ = ["SweepFolder", "Trial", "TrialLog"]
