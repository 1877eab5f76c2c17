"""A run's folder: what lies where."""

from dataclasses import dataclass
from pathlib import Path

from vaedist.config import Experiment
from vaedist.errors import RunError
from vaedist.storage.place import copy_of
from vaedist.storage.uri import is_remote, join_uri, local_path, name_of


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; nothing is made until something is written.

    Attributes:
        path: the folder; a copy of it, if the run is kept on a store.
        uri: of the folder on a store; empty if there is none.
    """

    path: Path
    uri: str = ""

    @classmethod
    def of(cls, experiment: Experiment) -> "RunFolder":
        """The folder that an experiment asks for."""
        folder, name = experiment.run.folder, experiment.run.name
        return cls.at(join_uri(folder, name) if is_remote(folder) else local_path(folder).absolute() / name)

    @classmethod
    def at(cls, place: str | Path) -> "RunFolder":
        """The folder at a path, or at a URI."""
        if isinstance(place, Path):
            return cls(place)
        return cls(copy_of(place), place) if is_remote(place) else cls(local_path(place))

    def absolute(self) -> "RunFolder":
        """The same folder, by a path that means the same in any process."""
        return RunFolder(self.path.absolute(), self.uri)

    @property
    def name(self) -> str:
        """The run's name."""
        return name_of(self.uri) if self.uri else self.path.name

    @property
    def place(self) -> str:
        """Where it is kept: a path, or a URI."""
        return self.uri or str(self.path)

    @property
    def experiment(self) -> Path:
        """The resolved experiment, as TOML."""
        return self.path / "experiment.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: training means every so many steps, test means every epoch."""
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
        """
        if not self.experiment.is_file():
            raise RunError(f"no run at {self.place}: it has no {self.experiment.name}")
        return Experiment.from_file(self.experiment)
