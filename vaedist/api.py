"""Python API of trained runs.

run = vaedist.load_run("runs/cifar10-iaf")
z = run.encode(images)               # [n, latents]
pictures = run.decode(z)             # [n, H, W, C] in [0, 1]
pictures = run.sample(64, seed=0)
bound = run.score(images)            # the ELBO of each image and its parts, in nats
run.export("exports/cifar10-iaf")    # a TensorFlow SavedModel, a Keras file and a model card
result = run.evaluate(samples=128)   # result.elbo.mean, result.log_p.standard_error, result.scores.elbo, ...
rows = run.encode_dataset()          # latents and scores of the data set, as a Ray Dataset
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vaedist.config import EVALUATION_SAMPLES, Experiment
from vaedist.data.manifest import Manifest, SplitName, load_manifest
from vaedist.data.rows import SplitRows
from vaedist.data.worker_data import Probe, open_probe
from vaedist.errors import CheckpointError, ConfigError, DataError, RunError
from vaedist.evaluation import inspection
from vaedist.evaluation.encoding import Kind
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.evaluation.inspection import Pixels, Progressive
from vaedist.evaluation.results import Evaluation
from vaedist.evaluation.scoring import score_layout
from vaedist.export.folder import require_empty, write_export
from vaedist.export.origin import origin_of
from vaedist.models.build import build_model
from vaedist.models.model import Model
from vaedist.models.preprocessing import Preprocessing
from vaedist.objectives.elbo import Bound
from vaedist.runs.checkpoint import Checkpoint, open_checkpoint
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder
from vaedist.storage.uri import absolute_location
from vaedist.training.state import load_weights
from vaedist.wording import counted

Which = Literal["best", "newest"]


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: the run's folder.
        experiment: the experiment that the run was started with.
        checkpoint: the checkpoint whose weights are used.
        ema: True if the weights are the exponential moving averages.
    """

    folder: RunFolder
    experiment: Experiment
    checkpoint: Checkpoint
    ema: bool = False

    def __repr__(self) -> str:
        """Returns the run's location, its model, and the checkpoint."""
        position, weights = self.checkpoint.position, ", moving averages" if self.ema else ""
        done = f"step {position.step} ({counted(position.epoch, 'epoch')})"
        return f"<Run {self.folder.location}: {self.experiment.model.type}, {done}{weights}>"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of the model's images, (height, width, channels)."""
        return self.checkpoint.position.image_shape

    @cached_property
    def model(self) -> Model:
        """The model with the checkpoint's weights."""
        return self.build()

    def here(self) -> "Run":
        """Returns the run with its checkpoint on this machine, downloaded from the object store if necessary.

        Raises:
            CheckpointError: the checkpoint no longer exists, or was replaced.
            StorageError: the object store does not respond.
        """
        folder = RunFolder.at(self.folder.location)
        path = folder.checkpoints / self.checkpoint.path.name
        try:
            found = open_checkpoint(path)
        except CheckpointError:  # not downloaded, or only its state, as by `checkpoints_of`
            found = None
        if found is None or found.digest != self.checkpoint.digest:
            found = checkpoints_of(folder).open(path)
        if found.digest != self.checkpoint.digest:
            raise CheckpointError(f"checkpoint {folder.store.location_of(path)} was replaced in the meantime")
        return replace(self, folder=folder, checkpoint=found)

    def for_workers(self) -> "Run":
        """Returns the run without its model, and with paths that are valid in processes with other current folders."""
        folder, path = self.folder.absolute(), absolute_location(self.experiment.data.path)
        data = self.experiment.data.model_copy(update={"path": path})
        checkpoint = replace(self.checkpoint, path=folder.checkpoints / self.checkpoint.path.name)
        return replace(
            self, folder=folder, experiment=self.experiment.model_copy(update={"data": data}), checkpoint=checkpoint
        )

    def build(self, dtype: str = "float32") -> Model:
        """Builds a new model with the checkpoint's weights."""
        model = build_model(self.experiment, self.image_shape, dtype)
        load_weights(model, self.checkpoint, self.experiment.training.ema_decay if self.ema else 0.0)
        return model

    def encode(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Returns a sample of q(z|x), [n, latents], for uint8 images [n, H, W, C]; layers are concatenated.

        Raises:
            DataError: the images have another shape or type, or there are none.
        """
        return inspection.encode(self.model, self._checked(images), seed=seed)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Returns E[x|z], [n, H, W, C], float32 in [0, 1], for latents [n, latents] as returned by `encode`.

        Raises:
            DataError: the latents have another shape, or there are none.
        """
        z, latents = np.asarray(z), score_layout(self.model).size
        if z.ndim != 2 or z.shape[1] != latents or not len(z):
            raise DataError(f"z must be of shape [n, {latents}] with n >= 1, not {list(z.shape)}")
        return inspection.decode(self.model, z)

    def sample(self, count: int, *, seed: int = 0, pixels: Pixels = "mean", temperature: float = 1.0) -> np.ndarray:
        """Returns images generated from samples of the prior, [count, H, W, C], float32 in [0, 1].

        By default these are the means E[x|z]; with `pixels` = "sample" the pixels are drawn from p(x|z). `temperature`
        is a factor on the standard deviations of the prior, of every stochastic layer.

        Raises:
            ConfigError: count is less than 1, or temperature is negative or not finite, or `pixels` is another text.
        """
        inspection.require_drawable(count, pixels=pixels, temperature=temperature)
        return inspection.sample(self.model, count, seed=seed, pixels=pixels, temperature=temperature)

    def reconstruct(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Returns decode(encode(images)), [n, H, W, C], float32 in [0, 1].

        Raises:
            DataError: the images have another shape or type, or there are none.
        """
        return inspection.reconstruct(self.model, self._checked(images), seed=seed)

    def progressive(self, images: np.ndarray, *, columns: int = inspection.COLUMNS, seed: int = 0) -> Progressive:
        """Returns reconstructions in which only the latents of the top layers come from the image, from all to none.

        Those of the other layers are drawn from the prior, given the layers above.

        Args:
            images: uint8, [n, H, W, C].
            columns: maximum number of images in a row, at least 2.
            seed: seed of the noise.

        Raises:
            DataError: the images have another shape or type, or there are none.
            RunError: the model has a single stochastic layer.
        """
        images, layers = self._checked(images), score_layout(self.model).layers
        if len(layers) == 1:
            raise RunError(
                f"run {self.folder.location} has the single stochastic layer {next(iter(layers))}; reconstructions by "
                "layer are for models with several"
            )
        return inspection.progressive(self.model, images, columns=columns, seed=seed)

    def observed(self, images: np.ndarray) -> np.ndarray:
        """Returns the preprocessed images x that `encode`, `reconstruct` and `score` use, float32 in [0, 1].

        If the model binarises or dequantises at random, image i gets the noise of row i of a split: the images of
        `probe` then look as they do in every evaluation.

        Raises:
            DataError: the images have another shape or type, or there are none.
        """
        return inspection.observed(self.model, self._checked(images))

    def pixel_noise(self, count: int) -> np.ndarray | None:
        """Returns the noise that `observed` uses, [count, H, W, C], for calls of `model`; None if it takes none."""
        return inspection.pixel_noise(self.model, count)

    def score(self, images: np.ndarray, *, seed: int = 0) -> Bound:
        """Returns the ELBO of each uint8 image and its terms, from one sample of z, [n] each, in nats.

        Raises:
            DataError: the images have another shape or type, or there are none.
        """
        return inspection.score(self.model, self._checked(images), seed=seed)

    def probe(self, count: int = 64) -> Probe:
        """Returns the first validation images of the run's data set, or the first test images if it has none.

        Raises:
            DataError: the data set is missing or has changed.
        """
        return open_probe(self.experiment.data.path, self._manifest(), count)

    def rows(self, split: SplitName = "train", limit: int | None = None) -> SplitRows:
        """Returns the rows of a split of the run's data set, for random access.

        Args:
            split: the split.
            limit: maximum number of rows, which are a random sample of the split; None for all.

        Raises:
            DataError: the data set is missing or has changed, or has no such split.
        """
        return SplitRows(self.experiment.data.path, self._manifest(), split, limit)

    def evaluator(
        self, *, samples: int = EVALUATION_SAMPLES, split: SplitName = "test", limit: int | None = None
    ) -> ImportanceEvaluator:
        """Returns an evaluator that scores the split's images block by block; see `evaluate`."""
        return ImportanceEvaluator(self.model, self.rows(split, limit), samples=samples, seed=self.experiment.seed)

    def evaluate(
        self,
        *,
        samples: int = EVALUATION_SAMPLES,
        split: SplitName = "test",
        limit: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Returns the ELBO, the importance-weighted bounds and the statistics of the latents on a split.

        More samples per image reduce the variance of the estimates and tighten the bound on log p(x). The result's
        `scores` hold the scores of each image, and its `against` compares it with the evaluation of another run.

        Args:
            samples: samples of z per image.
            split: the split to score.
            limit: maximum number of images, drawn at random from the split; the same limit always draws the same ones.
            progress: called with the number of scored blocks and the number of all blocks.

        Raises:
            DataError: the data set is missing or has changed.
        """
        evaluator = self.evaluator(samples=samples, split=split, limit=limit)
        scores = []
        for score in evaluator.scores():
            scores.append(score)
            progress(len(scores), evaluator.blocks)
        return evaluator.summary(scores)

    def export(
        self, path: str | Path, *, license: str | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        """Writes the model as a TensorFlow SavedModel and as a Keras file, with a model card and the experiment.

        The folder has `saved_model/1/`, whose functions `encode`, `decode`, `reconstruct`, `score` and `generate` need
        TensorFlow only and return what the methods of this class return; `model.keras`; `README.md`; and
        `experiment.toml`. It appears as a whole, or not at all; on an object store, `README.md` is written last.

        Args:
            path: path or URI of the folder, which must be new or empty.
            license: license of the weights, such as "cc-by-4.0"; None if it is not stated.
            progress: called with a description of each part before it is made.

        Raises:
            RunError: the folder is not empty.
            StorageError: the folder cannot be written.
            ModelError, UserCodeError: a user's model cannot be exported.
        """
        require_empty(str(path))
        origin = origin_of(self.folder, self.experiment, self.checkpoint.position, ema=self.ema)
        write_export(str(path), origin, self.model, license_name=license, progress=progress)

    def encode_dataset(
        self,
        *,
        split: SplitName | Sequence[SplitName] | None = None,
        data: str | None = None,
        folder: str | Path | None = None,
        latents: Kind | Sequence[Kind] | None = None,
        seed: int = 0,
        workers: int | None = None,
        gpus_per_worker: float = 0.0,
        address: str | None = None,
    ) -> Any:
        """Returns a Ray Dataset of the encoded images of a data set, computed by Ray workers when it is consumed.

        It is the result of `vaedist.encode_dataset`, which documents the arguments, the columns and the errors.
        """
        # By its name, as this module is below those that import Ray
        encode_dataset = importlib.import_module("vaedist.launch.inference").encode_dataset
        return encode_dataset(
            self, split=split, data=data, folder=folder, latents=latents, seed=seed, workers=workers,
            gpus_per_worker=gpus_per_worker, address=address,
        )  # fmt: skip

    def save_evaluation(self, evaluation: Evaluation, *, split: SplitName = "test", limit: int | None = None) -> Path:
        """Saves an evaluation in the run's folder and in TensorBoard, replacing an earlier one of the same kind.

        Args:
            evaluation: result of `evaluate`.
            split: argument of `evaluate`.
            limit: argument of `evaluate`.

        Returns:
            The path of the JSON file.

        Raises:
            StorageError: a file cannot be written.
        """
        from vaedist.runs.evaluations import save_evaluation

        position = self.checkpoint.position
        averages = self.experiment.training.ema_decay > 0
        name = "-".join(
            [
                split,
                f"k{evaluation.samples}",
                *([f"first{limit}"] if limit else []),
                *(["no-ema"] if averages and not self.ema else []),
            ]
        )
        record = {
            "run": self.folder.location,
            "checkpoint": self.folder.store.location_of(self.checkpoint.path),
            "epoch": position.epoch,
            "step": position.step,
            "ema": self.ema,
            "fingerprint": position.fingerprint,
            "split": split,
            "seed": self.experiment.seed,
            "scored": self.preprocessing.shown,
            **evaluation.to_dict(),
        }
        return save_evaluation(self.folder, name, position.step, record)

    @property
    def preprocessing(self) -> Preprocessing:
        """Mapping from pixels to the x that the model scores."""
        return self.experiment.model.preprocessing(self.experiment.data.binarize)

    def require_comparable(self, other: "Run") -> None:
        """Checks that the scores of two runs can be compared image by image.

        Raises:
            RunError: the runs use different data sets, or their models score different values of the pixels.
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

    def require_trained_on(self, manifest: Manifest) -> None:
        """Checks that the data set at the run's `data.path` is still the one that the run was trained on.

        Args:
            manifest: the manifest of the data set.

        Raises:
            DataError: its fingerprint differs.
        """
        if manifest.fingerprint != self.checkpoint.position.fingerprint:
            raise DataError(
                f"the data at {self.experiment.data.path} is not what the run was trained on: fingerprint "
                f"{manifest.fingerprint[:12]}, not {self.checkpoint.position.fingerprint[:12]}"
            )

    def require_bits_per_dim(self) -> None:
        """Checks that the run's scores can be stated in bits/dim.

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
        self.require_trained_on(manifest)
        return manifest

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != tuple(self.image_shape) or not len(images):
            raise DataError(
                f"images must be uint8 of shape [n, {', '.join(map(str, self.image_shape))}] with n >= 1, "
                f"not {images.dtype} of shape {list(images.shape)}"
            )
        return images


def load_run(
    path: str | Path, *, checkpoint: Which | int = "best", data: str | None = None, ema: bool | None = None
) -> Run:
    """Opens a run.

    Args:
        path: the run's folder, or its URI on an object store, from which the required files are downloaded.
        checkpoint: "best", by the ELBO of the validation images, or of the test images if the data set has no
            validation split; or "newest"; or the step of a checkpoint that is still kept.
        data: new location of the run's data set, if it was moved.
        ema: True uses the exponential moving averages of the weights, False the weights themselves. None uses the
            averages if the run has any, as its test passes do.

    Raises:
        RunError: there is no run, or it has no moving averages.
        CheckpointError: the run has no checkpoint, or none of that step, or the chosen one is damaged.
        StorageError: the object store does not respond.
        ValueError: `checkpoint` is another text.
    """
    if not isinstance(checkpoint, int) and checkpoint not in get_args(Which):
        raise ValueError(f"checkpoint = {checkpoint!r}: must be {' or '.join(map(repr, get_args(Which)))}, or a step")
    folder = RunFolder.at(path)
    folder.refresh()
    experiment = folder.read_experiment()
    if data is not None:
        experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"path": data})})
    checkpoints = checkpoints_of(folder)
    kept = experiment.training.ema_decay > 0
    if ema and not kept:
        raise RunError(f"run {path} kept no moving averages of its weights: training.ema_decay is 0")
    if isinstance(checkpoint, int):
        chosen: Checkpoint | None = checkpoints.at(checkpoint)
    else:
        damaged: list[str] = []
        chosen = (checkpoints.best if checkpoint == "best" else checkpoints.newest)(damaged.append)
        if damaged:  # another checkpoint must not be scored in its place unnoticed
            raise CheckpointError(f"{damaged[0]}; to use another one, choose the step of the checkpoint")
    if chosen is None:
        raise CheckpointError(f"run {path} has no checkpoint yet")
    return Run(folder, experiment, chosen, kept if ema is None else ema)
