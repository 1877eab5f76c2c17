"""Runs that were trained: found, loaded, and put to use from Python.

run = vaedist.load_run("runs/cifar10-iaf")
z = run.encode(images)               # [n, latent]
pictures = run.decode(z)             # [n, H, W, C] in [0, 1]
pictures = run.sample(64, seed=0)
bound = run.score(images)            # the ELBO of each image and its parts, in nats
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vaedist.config import Experiment
from vaedist.data.manifest import Manifest, load_manifest
from vaedist.errors import CheckpointError, DataError
from vaedist.model import VAE
from vaedist.objective import Bound
from vaedist.training import inspection
from vaedist.training.checkpoint import Checkpoint, CheckpointStore
from vaedist.training.inputs import open_inputs, open_probe
from vaedist.training.recorder import Probe
from vaedist.training.run_folder import RunFolder
from vaedist.training.state import load_weights

Which = Literal["best", "newest"]


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: where it lies.
        experiment: what it was started with.
        checkpoint: the one whose weights are used.
    """

    folder: RunFolder
    experiment: Experiment
    checkpoint: Checkpoint

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that the model takes."""
        return self.checkpoint.position.image_shape

    @cached_property
    def model(self) -> VAE:
        """The model with the checkpoint's weights."""
        from vaedist.training.worker import build_model

        model = build_model(self.experiment.model, self.image_shape, self.experiment.seed)
        load_weights(model, self.checkpoint)
        return model

    def encode(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """A sample of q(z|x), [n, latent], for uint8 images [n, H, W, C].

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.posterior(self.model, self._checked(images), seed=seed).z

    def decode(self, z: np.ndarray) -> np.ndarray:
        """E[x|z], [n, H, W, C], float32 in [0, 1], for latents [n, latent]."""
        return inspection.decode(self.model, z)

    def sample(self, count: int, *, seed: int = 0) -> np.ndarray:
        """New images, decode(z) with z ~ N(0, I), [count, H, W, C], float32 in [0, 1]."""
        return inspection.sample(self.model, count, seed=seed)

    def reconstruct(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """decode(encode(images)), [n, H, W, C], float32 in [0, 1].

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.reconstruct(self.model, self._checked(images), seed=seed)

    def score(self, images: np.ndarray, *, seed: int = 0) -> Bound:
        """The ELBO of each uint8 image and its parts, from one sample of z, [n] each, in nats.

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.score(self.model, self._checked(images), seed=seed)

    def probe(self, count: int = 64) -> Probe:
        """The first test images of the run's data set.

        Raises:
            DataError: the data set is not there, or has changed.
        """
        return open_probe(self.experiment.data.path, self._manifest(), count)

    def evaluate(self) -> dict[str, float]:
        """Means over the whole test split, one sample an image: what training printed at this checkpoint.

        Returns:
            rows; elbo, reconstruction and kl in nats an image; log_det and gate of each flow step; active_units.

        Raises:
            DataError: the data set is not there, or has changed.
        """
        from vaedist.training.evaluation import Evaluator
        from vaedist.training.strategy import make_strategy

        manifest = self._manifest()
        inputs = open_inputs(self.experiment, manifest, rank=0, workers=1, replicas=1)
        assert inputs.probe is not None
        evaluator = Evaluator(self.model, make_strategy(workers=1), inputs.test, seed=self.experiment.seed)
        means = evaluator.run(self.checkpoint.position.epoch)
        statistics = inspection.latent_statistics(self.model, inputs.probe.images, seed=self.experiment.seed)
        return means | {"active_units": statistics.active_units}

    def _manifest(self) -> Manifest:
        manifest = load_manifest(self.experiment.data.path)
        if manifest.fingerprint != self.checkpoint.position.fingerprint:
            raise DataError(
                f"the data at {self.experiment.data.path} is not what the run was trained on: fingerprint "
                f"{manifest.fingerprint[:12]}, not {self.checkpoint.position.fingerprint[:12]}"
            )
        return manifest

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != tuple(self.image_shape):
            raise DataError(
                f"images must be uint8 of shape [n, {', '.join(map(str, self.image_shape))}], "
                f"not {images.dtype} of shape {list(images.shape)}"
            )
        return images


def load_run(path: str | Path, *, checkpoint: Which = "best", data: str | None = None) -> Run:
    """Open a run by its folder.

    Args:
        path: the run's folder.
        checkpoint: "best" by test ELBO, or "newest".
        data: where the run's data set lies now, if it was moved.

    Raises:
        RunError: there is no run there.
        CheckpointError: it has no intact checkpoint.
    """
    folder = RunFolder(Path(path))
    experiment = folder.read_experiment()
    if data is not None:
        experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"path": data})})
    store = CheckpointStore(folder.checkpoints)
    chosen = store.best() if checkpoint == "best" else store.newest()
    if chosen is None:
        raise CheckpointError(f"run {path} has no checkpoint yet")
    return Run(folder, experiment, chosen)
