"""Runs with random weights, which were not trained."""

from vaedist.data.manifest import load_manifest
from vaedist.models.build import build_model
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.training.state import named_variables


def save_run(path, experiment, *, steps=(4,), change=lambda model: None):
    """Saves a run of an experiment, whose data exist, with checkpoints of some steps, all of the same weights.

    Args:
        path: the run's folder.
        experiment: the experiment.
        steps: the steps.
        change: called with the model before its weights are saved.
    """
    manifest, run = load_manifest(experiment.data.path), RunFolder.at(path)
    run.path.mkdir(parents=True)
    run.experiment.write_text(experiment.to_toml())
    model = build_model(experiment, manifest.shape)
    change(model)
    for epoch, step in enumerate(steps, 1):
        position = Position(epoch, step, manifest.fingerprint, manifest.shape, test_elbo=-1.0 / epoch)
        CheckpointStore(run, keep=len(steps)).save(position, named_variables(model), {}, experiment.to_toml())
    return run
