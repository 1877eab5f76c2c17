"""A sweep's folder, its trials, and their report; independent of Ray and TensorFlow."""

from vaedist.sweeps.folder import SweepFolder
from vaedist.sweeps.trial import Trial
from vaedist.sweeps.trial_log import TrialLog

__all__ = ["SweepFolder", "Trial", "TrialLog"]
