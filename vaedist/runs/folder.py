"""Layout of a run's folder."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vaedist.config import Experiment
from vaedist.config.reading import read_tables
from vaedist.storage.stored_folder import StoredFolder


@dataclass(frozen=True)
class RunFolder(StoredFolder):
    """Files of one run, local or on an object store.

    Files are read from and written to the working copy (see `FolderStore`). For a run on an object store, `refresh`
    downloads the experiment and the metrics, and `checkpoints_of` the checkpoints.
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
        """Metrics, one JSON object per line: training means at intervals, validation or test means after each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, each of which is a folder."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Reconstructions, samples, interpolations and reconstructions by layer, as PNG."""
        return self.path / "pictures"

    @property
    def evaluations(self) -> Path:
        """Results of `vaedist evaluate`, as JSON files."""
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
        """Updates the working copies of the experiment and the metrics.

        Raises:
            StorageError: the object store does not respond.
        """
        self.store.refresh(self.experiment, self.metrics)

    def read_experiment(self, *, need_classes: bool = True) -> Experiment:
        """Returns the experiment that the run was started with.

        Args:
            need_classes: False leaves the options of a user's class that cannot be imported as they are, for reading
                runs without their code.

        Raises:
            RunError: there is no run here.
            ConfigError: the file cannot be read, was written by another version, or needs a class that cannot be
                imported.
        """
        self.require(self.experiment, "run")
        return Experiment.from_dict(read_tables(self.experiment), str(self.experiment), need_classes=need_classes)

    def files_in(self, folder: Path, pattern: str = "*") -> list[Path]:
        """Returns the sorted paths of the files directly in a folder of the run whose names match a pattern.

        This includes files on an object store that are not in the working copy.

        Raises:
            StorageError: the object store does not respond.
        """
        files = self.store.files(folder)
        return sorted(path for path in files if path.parent == folder and fnmatchcase(path.name, pattern))
