"""Data of one worker: readers of its rows, and the images for pictures and statistics."""

from dataclasses import dataclass

import numpy as np

from vaedist.config import Experiment
from vaedist.data.lane_reader import LaneReader
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import Manifest, SplitName
from vaedist.data.shards import open_split
from vaedist.errors import DataError
from vaedist.user_code import user_code

PROBE_IMAGES = 2048  # for the Projector; pictures and statistics use the first ones


@dataclass(frozen=True)
class Probe:
    """Images for pictures and statistics of a model; they do not depend on the number of workers.

    Attributes:
        images: [n, H, W, C], uint8.
        labels: [n], indices into `classes`.
        classes: names of the classes.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class WorkerData:
    """Readers of one worker's rows, and the identity of the data set.

    Attributes:
        train: reader of the worker's training images.
        scored: reader of the worker's images of the split that is scored after each epoch.
        probe: images of the scored split for pictures and statistics; None except on the first worker.
        fingerprint: fingerprint of the data set.
        split: the scored split: "validation" if the data set has one, else "test".
    """

    train: LaneReader
    scored: LaneReader
    probe: Probe | None
    fingerprint: str
    split: SplitName = "test"


def check_images(experiment: Experiment, shape: tuple[int, int, int]) -> None:
    """Checks that an experiment can be run on images of a shape.

    Raises:
        DataError: it cannot; the message says why.
    """
    if experiment.data.binarize != "none" and shape[2] != 1:
        raise DataError(
            f"data.binarize = {experiment.data.binarize!r} is for grey images, of 1 channel; those at "
            f"{experiment.data.path} have {shape[2]}"
        )
    try:
        with user_code(f"model.type = {experiment.model.type!r}: its options cannot check a shape", ValueError):
            experiment.model.check_shape(shape)
    except ValueError as error:
        raise DataError(f"{error} at {experiment.data.path}") from None


def open_inputs(experiment: Experiment, manifest: Manifest, *, rank: int, workers: int, replicas: int) -> WorkerData:
    """Opens the shards that a worker reads.

    Args:
        experiment: the experiment, with the location of the data and the batch sizes.
        manifest: manifest of the data.
        rank: rank of the worker.
        workers: number of workers.
        replicas: number of the worker's devices.

    Raises:
        DataError: a shard cannot be opened, or there are more workers than shards.
    """

    def reader(split: SplitName, batch: int, seed: int | None) -> LaneReader:
        listed = manifest.splits[split]
        plan = LanePlan(listed.rows, len(listed.shards), batch, rank, workers)
        lanes = [shard.images for shard in open_split(experiment.data.path, manifest, split, plan.owned)]
        return LaneReader(plan, lanes, replicas=replicas, seed=seed)

    training, split = experiment.training, manifest.selection_split
    return WorkerData(
        train=reader("train", training.global_batch, experiment.seed),
        scored=reader(split, training.eval_batch, None),
        probe=open_probe(experiment.data.path, manifest) if rank == 0 else None,
        fingerprint=manifest.fingerprint,
        split=split,
    )


def open_probe(uri: str, manifest: Manifest, count: int = PROBE_IMAGES) -> Probe:
    """Returns the first `count` validation images, or test images if there are none, round-robin over all shards.

    Raises:
        DataError: a shard cannot be opened.
    """
    listed = manifest.splits[manifest.selection_split]
    shards = open_split(uri, manifest, manifest.selection_split, range(len(listed.shards)))
    places = [divmod(p, len(shards)) for p in range(min(count, listed.rows))]
    return Probe(
        np.stack([shards[lane].images[row] for row, lane in places]),
        np.array([shards[lane].labels[row] for row, lane in places]),
        manifest.classes,
    )
