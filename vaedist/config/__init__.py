"""The experiment: frozen, validated sections, read from one TOML file.

`vaedist config schema` prints every key with its type, its range and its default.
"""

from vaedist.config.dimension import Dimension, Value, told
from vaedist.config.experiment import Experiment, differences
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
    "differences",
    "keys",
    "read_job",
    "told",
    "with_options",
]
