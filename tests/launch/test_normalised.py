"""A model with batch normalization on two Ray workers: all variables are equal on both, and after a restart."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from vaedist.launch.addresses import free_port

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

STEPS = 6


@ray.remote(num_cpus=1, max_calls=1)
def trained(rank, addresses, tests, folder, resumed):
    """Returns all variables of this worker after 6 steps; if `resumed`, it starts from the checkpoint of step 3."""
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
    sys.path.insert(0, tests)
    from vaedist.devices.strategy import configure_devices, make_strategy

    configure_devices(threads=1, gpus=0, logical_devices=1)
    strategy = make_strategy(workers=2)
    from small_models import Normalised

    from vaedist.config import Experiment
    from vaedist.data.lane_reader import LaneReader
    from vaedist.data.lanes import LanePlan
    from vaedist.objectives.objective import Objective
    from vaedist.runs.checkpoint import Position
    from vaedist.runs.checkpoint_store import CheckpointStore
    from vaedist.runs.folder import RunFolder
    from vaedist.training.optimizer import Adam, Averaged, Schedule
    from vaedist.training.state import load_variables, named_slots, named_variables
    from vaedist.training.step import TrainStep

    with strategy.scope():
        model = Normalised((4, 4, 1), seed=int(resumed))
    step = TrainStep(
        model, strategy, Averaged(Adam(Schedule(0.01)), 0.9), Objective(), global_batch=8, steps_per_call=1,
        norm_every=1, seed=0,
    )  # fmt: skip
    lanes = [np.random.default_rng(lane).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8) for lane in range(4)]
    plan, store = LanePlan(48, 4, 8, rank, 2), CheckpointStore(RunFolder.at(folder), keep=1)
    reader = LaneReader(plan, [lanes[lane] for lane in plan.owned], seed=0)
    if resumed:
        load_variables(model, step, store.newest())
    for number in range(STEPS // 2 if resumed else 0, STEPS):
        assert step.run(reader.read(0, number, 1, 1), number)[1]
        if number == STEPS // 2 - 1 and rank == 0:
            position = Position(0, number + 1, "data", (4, 4, 1))
            store.save(position, named_variables(model), named_slots(model, step), Experiment().to_toml())
    return named_variables(model) | named_slots(model, step)


def test_variables_are_bitwise_equal_on_both_workers_and_after_a_restart(tmp_path):
    groups = []
    for resumed in (False, True):
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        tests = str(Path(__file__).parents[1])
        groups.append(ray.get([trained.remote(rank, addresses, tests, str(tmp_path), resumed) for rank in range(2)]))
    (first, second), restarted = groups
    moved = [name for name in first if "moving_" in name]
    assert len(moved) == 4  # mean and variance, and their averages
    for name in moved:
        assert np.abs(first[name] - float("variance" in name)).max() > 1e-3, name
    for other in (second, *restarted):
        assert other.keys() == first.keys()
        for name, value in first.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
