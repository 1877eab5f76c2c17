"""Runs that were trained: found, loaded, and put to use from Python.

run = vaedist.load_run("runs/cifar10-iaf")
z = run.encode(images)               # [n, latents]
pictures = run.decode(z)             # [n, H, W, C] in [0, 1]
pictures = run.sample(64, seed=0)
bound = run.score(images)            # the ELBO of each image and its parts, in nats
result = run.evaluate(samples=128)   # result.elbo.mean, result.log_p.standard_error, result.scores.elbo, ...
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vaedist.config import EVALUATION_SAMPLES, Experiment
from vaedist.data.manifest import Manifest, SplitName, load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.worker_data import Probe, open_probe
from vaedist.errors import CheckpointError, ConfigError, DataError, RunError
from vaedist.evaluation import inspection
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.evaluation.inspection import Pixels
from vaedist.evaluation.results import Evaluation
from vaedist.models.build import build_model
from vaedist.models.model import Model
from vaedist.models.preprocessing import Preprocessing
from vaedist.objectives.elbo import Bound
from vaedist.runs.checkpoint import Checkpoint
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder
from vaedist.training.state import load_weights

Which = Literal["best", "newest"]


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: where it lies.
        experiment: what it was started with.
        checkpoint: the one whose weights are used.
        ema: whether they are the moving averages of the weights.
    """

    folder: RunFolder
    experiment: Experiment
    checkpoint: Checkpoint
    ema: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that the model takes."""
        return self.checkpoint.position.image_shape

    @cached_property
    def model(self) -> Model:
        """The model with the checkpoint's weights."""
        return self.build()

    def here(self) -> "Run":
        """Returns the run with its checkpoint on this machine; one on an object store is fetched if it is not here.

        Raises:
            CheckpointError: the checkpoint does not exist any more.
            StorageError: the object store does not answer.
        """
        path = self.checkpoint.path
        if path.exists():
            return self
        folder = RunFolder.at(self.folder.location)
        return replace(self, folder=folder, checkpoint=checkpoints_of(folder).open(folder.checkpoints / path.name))

    def build(self, dtype: str = "float32") -> Model:
        """The model with the checkpoint's weights, made anew."""
        model = build_model(self.experiment, self.image_shape, dtype)
        load_weights(model, self.checkpoint, self.experiment.training.ema_decay if self.ema else 0.0)
        return model

    def encode(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Returns a sample of q(z|x), [n, latents], for uint8 images [n, H, W, C]; layers stand side by side.

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.encode(self.model, self._checked(images), seed=seed)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Returns E[x|z], [n, H, W, C], float32 in [0, 1], for latents [n, latents] as `encode` gives them."""
        return inspection.decode(self.model, z)

    def sample(self, count: int, *, seed: int = 0, pixels: Pixels = "mean") -> np.ndarray:
        """Returns new images from draws of the prior, [count, H, W, C], float32 in [0, 1].

        They are E[x|z], or with `pixels` = "sample" drawn from p(x|z).
        """
        return inspection.sample(self.model, count, seed=seed, pixels=pixels)

    def reconstruct(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Returns decode(encode(images)), [n, H, W, C], float32 in [0, 1].

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.reconstruct(self.model, self._checked(images), seed=seed)

    def observed(self, images: np.ndarray) -> np.ndarray:
        """The x that `encode`, `reconstruct` and `score` see of the images, [n, H, W, C], float32 in [0, 1].

        Where the model binarises or dequantises at random, image i is seen through the noise of row i of a split, as
        the first test images, `probe`, are in every evaluation.

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.observed(self.model, self._checked(images))

    def pixel_noise(self, count: int) -> np.ndarray | None:
        """Returns the noise of `observed`, [count, H, W, C], for calls of `model`; None where the model takes none."""
        return inspection.pixel_noise(self.model, count)

    def score(self, images: np.ndarray, *, seed: int = 0) -> Bound:
        """The ELBO of each uint8 image and its parts, from one sample of z, [n] each, in nats.

        Raises:
            DataError: the images have another shape or type.
        """
        return inspection.score(self.model, self._checked(images), seed=seed)

    def probe(self, count: int = 64) -> Probe:
        """The first validation images of the run's data set, or the first test images where it has none.

        Raises:
            DataError: the data set is not there, or has changed.
        """
        return open_probe(self.experiment.data.path, self._manifest(), count)

    def evaluator(
        self, *, samples: int = EVALUATION_SAMPLES, split: SplitName = "test", limit: int | None = None
    ) -> ImportanceEvaluator:
        """What scores the split's images block by block; see `evaluate`."""
        rows = SplitRows(self.experiment.data.path, self._manifest(), split, limit)
        return ImportanceEvaluator(self.model, rows, samples=samples, seed=self.experiment.seed)

    def evaluate(
        self,
        *,
        samples: int = EVALUATION_SAMPLES,
        split: SplitName = "test",
        limit: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """The variational bound, the importance-weighted bounds, and what the latents carry.

        The model was fitted to lower bounds of one sample; several samples an image make the estimates more exact, and
        the bound on log p(x) tighter. The scores of each image are in `scores` of what is returned, and `against`
        compares it with the evaluation of another run.

        Args:
            samples: of z for each image.
            split: whose images.
            limit: the most images; they are then a random part of the split, always the same.
            progress: told how many blocks are scored, of how many.

        Raises:
            DataError: the data set is not there, or has changed.
        """
        evaluator = self.evaluator(samples=samples, split=split, limit=limit)
        scores = []
        for score in evaluator.scores():
            scores.append(score)
            progress(len(scores), evaluator.blocks)
        return evaluator.summary(scores)

    @property
    def preprocessing(self) -> Preprocessing:
        """The map from pixels to the x that the model scores."""
        return self.experiment.model.preprocessing(self.experiment.data.binarize)

    def require_comparable(self, other: "Run") -> None:
        """Refuse a comparison image by image with a run whose scores are of something else.

        Raises:
            RunError: the other run is of another data set, or its model scores other values of the pixels.
        """
        mine, its = self.checkpoint.position.fingerprint, other.checkpoint.position.fingerprint
        if mine != its:
            raise RunError(
                f"{other.folder.location} cannot be compared with {self.folder.location}: their data sets differ, "
                f"fingerprint {its[:12]}, not {mine[:12]}"
            )
        if self.preprocessing.shown != other.preprocessing.shown:
            raise RunError(
                f"{other.folder.location} cannot be compared with {self.folder.location}: one scores "
                f"{other.preprocessing.shown}, the other {self.preprocessing.shown} ([model], data.binarize)"
            )

    def require_bits_per_dim(self) -> None:
        """Refuse to state the run's numbers in bits/dim where there are none.

        Raises:
            ConfigError: the model's log p(x|z) is neither a density of the pixels nor a probability of their levels.
        """
        if self.preprocessing.levels is not None:
            return
        why = ", in nats" if self.preprocessing.proper else " by a score that is not a density or a probability"
        raise ConfigError(
            f"run {self.folder.location} has no bits/dim: with data.binarize = {self.experiment.data.binarize!r} and "
            f"the options in [model], the model scores {self.preprocessing.shown}{why}"
        )

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


def load_run(path: str | Path, *, checkpoint: Which = "best", data: str | None = None, ema: bool | None = None) -> Run:
    """Open a run by its folder.

    Args:
        path: the run's folder, or its URI on a store, from which what is needed is copied to this machine.
        checkpoint: "best" by the ELBO of the validation images, or of the test images where the data set has none;
            or "newest".
        data: where the run's data set lies now, if it was moved.
        ema: use the moving averages of the weights, or the weights; None takes the averages where the run kept them,
            as its test passes did.

    Raises:
        RunError: there is no run there, or it kept no averages.
        CheckpointError: it has no intact checkpoint.
        StorageError: the store does not answer.
    """
    folder = RunFolder.at(path)
    folder.refresh()
    experiment = folder.read_experiment()
    if data is not None:
        experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"path": data})})
    checkpoints = checkpoints_of(folder)
    kept = experiment.training.ema_decay > 0
    if ema and not kept:
        raise RunError(f"run {path} kept no moving averages of its weights: training.ema_decay is 0")
    chosen = checkpoints.best() if checkpoint == "best" else checkpoints.newest()
    if chosen is None:
        raise CheckpointError(f"run {path} has no checkpoint yet")
    return Run(folder, experiment, chosen, kept if ema is None else ema)
