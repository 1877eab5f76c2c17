"""A run's folder: what lies where."""

from dataclasses import dataclass
from pathlib import Path

from vaedist.config import Experiment
from vaedist.storage.paths import KeptFolder


@dataclass(frozen=True)
class RunFolder(KeptFolder):
    """Paths of one run; nothing is made until something is written."""

    @classmethod
    def of(cls, experiment: Experiment) -> "RunFolder":
        """The folder that an experiment asks for."""
        return cls.named(experiment.run.folder, experiment.run.name)

    def absolute(self) -> "RunFolder":
        """The same folder, by a path that means the same in any process."""
        return RunFolder(self.path.absolute(), self.uri)

    @property
    def experiment(self) -> Path:
        """The resolved experiment, as TOML."""
        return self.path / "experiment.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: training means every so many steps, validation or test means every epoch."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Reconstructions, samples and interpolations, as PNG."""
        return self.path / "pictures"

    @property
    def evaluations(self) -> Path:
        """What `vaedist evaluate` found, a JSON file each."""
        return self.path / "evaluations"

    @property
    def logs(self) -> Path:
        """What Ray and TensorFlow said."""
        return self.path / "logs"

    def read_experiment(self) -> Experiment:
        """The experiment that the run was started with.

        Raises:
            RunError: there is no run here.
            ConfigError: what is here cannot be read, or is of another version.
        """
        self.require(self.experiment, "run")
        return Experiment.from_file(self.experiment)
