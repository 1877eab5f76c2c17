"""The experiment: frozen, validated sections, read from one TOML file.

`vaedist config schema` prints every key with its type, its range and its default.
"""

from vaedist.config.class_choice import ClassChoice
from vaedist.config.class_options import ClassOptions, of_its_type
from vaedist.config.dimension import Dimension, Value, told
from vaedist.config.experiment import Experiment, check_classes, differences
from vaedist.config.keys import keys, with_options
from vaedist.config.model_options import ModelOptions
from vaedist.config.sections import (
    EVALUATION_SAMPLES,
    NAME_PATTERN,
    ObjectiveSection,
    ScalingSection,
    Section,
    TrainingSection,
)
from vaedist.config.sweep import Sweep, TuneSection, read_job

__all__ = [
    "EVALUATION_SAMPLES",
    "NAME_PATTERN",
    "ClassChoice",
    "ClassOptions",
    "Dimension",
    "Experiment",
    "ModelOptions",
    "ObjectiveSection",
    "ScalingSection",
    "Section",
    "Sweep",
    "TrainingSection",
    "TuneSection",
    "Value",
    "check_classes",
    "differences",
    "keys",
    "of_its_type",
    "read_job",
    "told",
    "with_options",
]
