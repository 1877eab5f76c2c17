"""Provenance of an exported model: its run, data set, training and scores, as recorded in the run's folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaedist.config import Experiment
from vaedist.data.manifest import Manifest, load_manifest
from vaedist.errors import DataError, RunError, StorageError
from vaedist.runs.checkpoint import Position
from vaedist.runs.folder import RunFolder
from vaedist.runs.summary import Summary, summarize
from vaedist.storage.filesystem import first_line


@dataclass(frozen=True)
class Origin:
    """Origin of an exported model.

    Attributes:
        name: name of the run.
        experiment: the experiment that the run was started with.
        position: position of the checkpoint whose weights are exported.
        ema: True if the weights are the exponential moving averages.
        manifest: description of the data set; None if it is not the one that the run was trained on, or not available.
        evaluations: records of `save_evaluation` about these weights.
        summary: summary of the run.
    """

    name: str
    experiment: Experiment
    position: Position
    ema: bool
    manifest: Manifest | None
    evaluations: Sequence[Mapping[str, Any]]
    summary: Summary

    @property
    def portable_experiment(self) -> Experiment:
        """The experiment without the locations of the run and of the data, and without addresses of the network.

        They do not exist elsewhere. `run.folder` and `scaling.peer_networks` have their defaults, and `data.path` is
        the location where `vaedist data prepare` writes such a data set.
        """
        experiment, name, default = self.experiment, self.manifest.name if self.manifest else "", Experiment()
        places = {
            "run": {"folder": default.run.folder},
            "data": {"path": f"data/{name}".rstrip("/")},
            "scaling": {"peer_networks": default.scaling.peer_networks},
        }
        sections = {key: getattr(experiment, key).model_copy(update=place) for key, place in places.items()}
        return experiment.model_copy(update=sections)


def origin_of(folder: RunFolder, experiment: Experiment, position: Position, *, ema: bool) -> Origin:
    """Reads the origin of a model from its run's folder, and from the data set if that is available.

    Args:
        folder: the run's folder.
        experiment: the experiment, with the current location of the data set.
        position: position of the checkpoint.
        ema: True if the moving averages of the weights are used.

    Raises:
        RunError: the metrics or an evaluation cannot be read.
        StorageError: the object store with the run does not respond.
    """
    weights = position.step, ema
    evaluations = [record for record in _evaluations(folder) if (record["step"], record["ema"]) == weights]
    manifest = _manifest(experiment, position)
    return Origin(folder.name, experiment, position, ema, manifest, evaluations, summarize(folder))


def _manifest(experiment: Experiment, position: Position) -> Manifest | None:
    try:
        manifest = load_manifest(experiment.data.path)
    except (DataError, StorageError):
        return None
    return manifest if manifest.fingerprint == position.fingerprint else None


def _evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """Returns the run's evaluations, sorted by their files' names."""
    found = []
    for path in folder.files_in(folder.evaluations, "*.json"):
        try:
            found.append(json.loads(folder.store.read(path)))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {folder.store.location_of(path)}: {first_line(error)}") from error
    return found
