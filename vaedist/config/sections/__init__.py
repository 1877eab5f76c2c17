"""The sections of an experiment.

Each key has a type, a default, which is stated nowhere else, a range and a description.
"""

from vaedist.config.sections.base import Section
from vaedist.config.sections.data import DataSection
from vaedist.config.sections.run import NAME_PATTERN, CheckpointSection, MonitorSection, RunSection
from vaedist.config.sections.scaling import ScalingSection
from vaedist.config.sections.training import EVALUATION_SAMPLES, ObjectiveSection, TrainingSection

__all__ = [
    "EVALUATION_SAMPLES",
    "NAME_PATTERN",
    "CheckpointSection",
    "DataSection",
    "MonitorSection",
    "ObjectiveSection",
    "RunSection",
    "ScalingSection",
    "Section",
    "TrainingSection",
]
