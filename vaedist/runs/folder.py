"""Layout of a run's folder."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vaedist.config import Experiment
from vaedist.storage.stored_folder import StoredFolder


@dataclass(frozen=True)
class RunFolder(StoredFolder):
    """Files of one run, local or on an object store.

    Files are read from and written to the working copy (see `FolderStore`); of a run on an object store, `refresh`
    brings the experiment and the metrics into it, and `checkpoints_of` the checkpoints.
    """

    @classmethod
    def of(cls, experiment: Experiment) -> "RunFolder":
        """Returns the folder that an experiment names."""
        return cls.named(experiment.run.folder, experiment.run.name)

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
        """Results of `vaedist evaluate`, a JSON file each."""
        return self.path / "evaluations"

    @property
    def logs(self) -> Path:
        """Output of Ray and TensorFlow."""
        return self.path / "logs"

    @property
    def writer(self) -> Path:
        """The worker group that holds the writer lease."""
        return self.path / ".writer"

    def refresh(self) -> None:
        """Brings the working copies of the experiment and the metrics up to date.

        Raises:
            StorageError: the object store does not answer.
        """
        self.store.refresh(self.experiment, self.metrics)

    def read_experiment(self) -> Experiment:
        """Returns the experiment that the run was started with.

        Raises:
            RunError: there is no run here.
            ConfigError: the file cannot be read, or is of another version.
        """
        self.require(self.experiment, "run")
        return Experiment.from_file(self.experiment)

    def files_in(self, folder: Path, pattern: str = "*") -> list[Path]:
        """Returns the sorted paths of the files directly in a folder of the run whose names match a pattern.

        Files on an object store are listed too if the working copy does not have them.

        Raises:
            StorageError: the object store does not answer.
        """
        files = self.store.files(folder)
        return sorted(path for path in files if path.parent == folder and fnmatchcase(path.name, pattern))
