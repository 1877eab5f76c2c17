"""Distributed training of variational autoencoders with inverse autoregressive flow posteriors.

experiment = vaedist.Experiment.from_file("jobs/cifar10-iaf.toml")
run = vaedist.train(experiment)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vaedist.config import Experiment, Sweep
    from vaedist.launch.train import train
    from vaedist.launch.tune import tune
    from vaedist.runs import Run, load_run
    from vaedist.training.summary import list_runs

__all__ = ["Experiment", "Run", "Sweep", "list_runs", "load_run", "train", "tune"]

_HOMES = {
    "Experiment": "vaedist.config",
    "Run": "vaedist.runs",
    "Sweep": "vaedist.config",
    "list_runs": "vaedist.training.summary",
    "load_run": "vaedist.runs",
    "train": "vaedist.launch.train",
    "tune": "vaedist.launch.tune",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: TensorFlow and Ray take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
