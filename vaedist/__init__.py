"""Distributed training of variational autoencoders with inverse autoregressive flow posteriors.

experiment = vaedist.Experiment.from_file("jobs/cifar10-iaf.toml")
run = vaedist.train(experiment)
"""

import importlib
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from vaedist.tensorflow_log import without_import_messages as _without_import_messages
from vaedist.version import __version__ as __version__

if TYPE_CHECKING:
    from vaedist.api import Run, load_run
    from vaedist.config import Experiment, ModelOptions, Sweep
    from vaedist.data.prepare import prepare
    from vaedist.launch.evaluate import evaluate
    from vaedist.launch.inference import encode_dataset
    from vaedist.launch.jobs.submit import SubmittedJob, submit
    from vaedist.launch.training.trainer import train
    from vaedist.launch.tuning.sweep import tune
    from vaedist.models.flows.flow import Flow, FlowOutput
    from vaedist.models.flows.options import FlowOptions
    from vaedist.models.likelihoods import Likelihood
    from vaedist.models.model import Model, Score
    from vaedist.runs.summary import list_runs

__all__ = [
    "Experiment",
    "Flow",
    "FlowOptions",
    "FlowOutput",
    "Likelihood",
    "Model",
    "ModelOptions",
    "Run",
    "Score",
    "SubmittedJob",
    "Sweep",
    "encode_dataset",
    "evaluate",
    "list_runs",
    "load_run",
    "prepare",
    "submit",
    "train",
    "tune",
]

_HOMES = {
    "Experiment": "vaedist.config",
    "Flow": "vaedist.models.flows.flow",
    "FlowOptions": "vaedist.models.flows.options",
    "FlowOutput": "vaedist.models.flows.flow",
    "Likelihood": "vaedist.models.likelihoods",
    "Model": "vaedist.models.model",
    "ModelOptions": "vaedist.config",
    "Run": "vaedist.api",
    "Score": "vaedist.models.model",
    "SubmittedJob": "vaedist.launch.jobs.submit",
    "Sweep": "vaedist.config",
    "encode_dataset": "vaedist.launch.inference",
    "evaluate": "vaedist.launch.evaluate",
    "list_runs": "vaedist.runs.summary",
    "load_run": "vaedist.api",
    "prepare": "vaedist.data.prepare",
    "submit": "vaedist.launch.jobs.submit",
    "train": "vaedist.launch.training.trainer",
    "tune": "vaedist.launch.tuning.sweep",
}

# Names whose modules import TensorFlow.
_TENSORFLOW = {"Flow", "FlowOutput", "Likelihood", "Model", "Run", "Score", "encode_dataset", "evaluate", "load_run"}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: TensorFlow and Ray take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with ExitStack() as stack:
        if name in _TENSORFLOW:
            stack.enter_context(_without_import_messages())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, in notebooks without ipywidgets
        return getattr(importlib.import_module(_HOMES[name]), name)
