"""From a data set to the rows of one worker."""

import numpy as np

from vaedist.config import Experiment
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import Manifest, SplitName
from vaedist.data.shards import open_split
from vaedist.data.stream import LaneReader
from vaedist.training.loop import PROBE_IMAGES, Inputs
from vaedist.training.recorder import Probe


def open_inputs(experiment: Experiment, manifest: Manifest, *, rank: int, workers: int, replicas: int) -> Inputs:
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

    training = experiment.training
    return Inputs(
        train=reader("train", training.global_batch, experiment.seed),
        test=reader("test", training.eval_batch, None),
        probe=open_probe(experiment.data.path, manifest) if rank == 0 else None,
        fingerprint=manifest.fingerprint,
    )


def open_probe(uri: str, manifest: Manifest, count: int = PROBE_IMAGES) -> Probe:
    """The first `count` test images, taken from the shards in turn, whichever worker reads them otherwise.

    Raises:
        DataError: a shard cannot be opened.
    """
    listed = manifest.splits["test"]
    shards = open_split(uri, manifest, "test", range(len(listed.shards)))
    places = [divmod(p, len(shards)) for p in range(min(count, listed.rows))]
    return Probe(
        np.stack([shards[lane].images[row] for row, lane in places]),
        np.array([shards[lane].labels[row] for row, lane in places]),
        manifest.classes,
    )
