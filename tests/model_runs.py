"""Runs with random weights, one of each kind of model, for tests that need no training."""

from pathlib import Path

import numpy as np

from vaedist.config import Experiment
from vaedist.data.manifest import load_manifest
from vaedist.models.build import build_model
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.training.state import named_variables

EXAMPLES = Path(__file__).parents[1] / "examples"
SHAPE = (4, 8, 1)
SMALL = ("model.hidden=8", "model.latent=4")
MODELS = {
    "mlp": (*SMALL, "model.flow.depth=0"),
    "iaf": (*SMALL, "model.flow.depth=2", "model.flow.width=6", "data.binarize=dynamic"),
    "conv": ("model.type=conv", "model.width=3", *SMALL, "model.flow.depth=0", "model.likelihood=continuous_bernoulli"),
    "resnet": ("model.type=resnet", "model.width=4", "model.latent=2", "model.levels=2", "model.blocks=1"),
    "own": ("model.type=conv_vae:ConvVAE", "model.width=3", "model.latent=4"),
    "planar": (*SMALL, "model.flow.type=planar_flow:PlanarFlow", "model.flow.depth=2"),
}


def make_run(folder, name, data, checkpoints=((4, -21.5), (8, -30.25))):
    """Makes a run of the model with a name in MODELS; `checkpoints` has the step and the validation ELBO of each."""
    experiment = Experiment().with_overrides(f"data.path={data}", *MODELS[name])
    manifest, run = load_manifest(str(data)), RunFolder.at(folder / name)
    run.path.mkdir()
    run.experiment.write_text(experiment.to_toml())
    model, rng = build_model(experiment, SHAPE), np.random.default_rng(0)
    for step, elbo in checkpoints:
        weights = {
            path: (weight + rng.normal(0, 0.1, weight.shape)).astype(np.float32)
            for path, weight in named_variables(model).items()
        }
        position = Position(step // 4, step, manifest.fingerprint, SHAPE, validation_elbo=elbo)
        CheckpointStore(run).save(position, weights, {}, experiment.to_toml())
    return run
