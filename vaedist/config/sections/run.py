"""Location, checkpoints and logging of a run."""

from typing import Literal

from pydantic import Field

from vaedist.config.sections.base import Location, Section

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class RunSection(Section):
    """Name and location of a run."""

    name: str = Field(
        default="",
        pattern=r"^$|" + NAME_PATTERN,
        max_length=128,
        description="Name of the run's folder; empty uses the job file's name.",
    )
    folder: Location = Field(
        default="runs",
        min_length=1,
        description="Folder that holds the runs, or a pyarrow filesystem URI; all workers must have access to it.",
    )


class CheckpointSection(Section):
    """Frequency and number of checkpoints."""

    every_steps: int = Field(
        default=1000, ge=0, description="Steps between checkpoints; 0 writes them at the end of epochs only."
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="Newest checkpoints to keep, in addition to the best by validation ELBO, or by test ELBO if the "
        "data has no validation split.",
    )


class MonitorSection(Section):
    """Logging and its frequency."""

    trackers: tuple[Literal["mlflow"], ...] = Field(
        default=(),
        description="Experiment trackers that also get the metrics, pictures and hyperparameters: mlflow, which "
        "requires the extra mlflow, and uses MLflow's environment variables, such as MLFLOW_TRACKING_URI. Without that "
        "variable, it writes to mlflow.db in run.folder. Errors of a tracker are reported, and do not stop a run.",
    )

    log_every: int = Field(default=50, ge=1, description="Steps between two rows of training metrics.")
    pictures_every: int = Field(default=1, ge=0, description="Epochs between pictures; 0 writes them at the end only.")
    importance_samples: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Samples per image of the importance-weighted bound that is computed after each epoch, on the "
        "validation images, or on the test images if there are none; 0 computes none.",
    )
    pictures: int = Field(
        default=32,
        ge=1,
        le=256,
        description="Images in the grid of reconstructions; the grid of samples has twice as many.",
    )
