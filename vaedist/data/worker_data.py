"""From a data set to the rows of one worker."""

from dataclasses import dataclass

import numpy as np

from vaedist.config import Experiment
from vaedist.data.lane_reader import LaneReader
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import Manifest, SplitName
from vaedist.data.shards import open_split
from vaedist.errors import DataError

PROBE_IMAGES = 2048  # for the Projector; the first of them for pictures and statistics


@dataclass(frozen=True)
class Probe:
    """Images that the model is looked at with: the same ones for any number of workers.

    images: [n, H, W, C], uint8. labels: [n], numbers of `classes`.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class WorkerData:
    """A worker's rows, and what identifies the data.

    train: reader of the worker's lanes of the training images.
    scored: the same of the images that are scored after each epoch.
    probe: some of the same images for pictures and statistics, on the first worker.
    fingerprint: of the data set.
    split: whose images are scored: "validation" where the data set has such a split, else "test".
    """

    train: LaneReader
    scored: LaneReader
    probe: Probe | None
    fingerprint: str
    split: SplitName = "test"


def check_images(experiment: Experiment, shape: tuple[int, int, int]) -> None:
    """Whether the experiment's model can be trained on images of a shape.

    Raises:
        DataError: it cannot; the message says why.
    """
    if experiment.data.binarize != "none" and shape[2] != 1:
        raise DataError(
            f"data.binarize = {experiment.data.binarize!r} is for grey images, of 1 channel; those at "
            f"{experiment.data.path} have {shape[2]}"
        )


def open_inputs(experiment: Experiment, manifest: Manifest, *, rank: int, workers: int, replicas: int) -> WorkerData:
    """Open the shards that a worker reads.

    Args:
        experiment: names the data and the batches.
        manifest: of the data.
        rank: whose rows.
        workers: of how many.
        replicas: devices of this worker.

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
    """The first `count` validation images, or test images where there are none, taken from the shards in turn.

    It does not matter which worker reads them otherwise.

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
