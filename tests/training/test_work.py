"""Operations and bytes of training, which are counted instead of timed, to detect slowdowns."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaedist.bench.hlo_cost import work_of
from vaedist.config import Experiment
from vaedist.data.lane_reader import LaneReader
from vaedist.data.lanes import LanePlan
from vaedist.data.worker_data import WorkerData
from vaedist.launch.addresses import free_port
from vaedist.models.build import build_model
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.training.build import build_step
from vaedist.training.loop import Loop

CAPACITY = 4
MFLOP_AN_IMAGE = 36.4  # of matrix products, forward and backward; 43 if masked halves of kernels were multiplied
MB_A_STEP = 490  # read and written by the instructions of a step, of which 12 are squares of factors, in the cache
CALLS_A_STEP = 42  # of Python functions, at 64 steps a call


def reader(rows, batch, shape, **options):
    images = np.random.default_rng(0).integers(0, 256, (rows, *shape), dtype=np.uint8)
    return LaneReader(LanePlan(rows, 8, batch), [images[lane::8] for lane in range(8)], **options)


def test_a_step_at_full_size(strategy):
    experiment = Experiment().with_overrides(f"training.steps_per_call={CAPACITY}")
    with strategy.scope():
        model = build_model(experiment, (32, 32, 3))
    step = build_step(experiment, model, strategy, steps_per_epoch=10, global_batch=32)
    work = work_of(step.program(reader(320, 32, (32, 32, 3), seed=0).read(0, 0, CAPACITY, CAPACITY)))
    assert work.flops / 32 / 1e6 < MFLOP_AN_IMAGE
    assert work.bytes / 1e6 < MB_A_STEP


def test_python_calls_a_step(strategy, tmp_path):
    experiment = Experiment().with_overrides(
        "training.global_batch=8", "model.hidden=8", "model.latent=4", "model.flow.width=8", "training.epochs=3",
        "checkpoint.every_steps=0",
    )  # fmt: skip
    with strategy.scope():
        model = build_model(experiment, (4, 6, 3))
    rows = reader(8 * 512, 8, (4, 6, 3), seed=0)
    inputs = WorkerData(rows, reader(64, 32, (4, 6, 3), seed=None), None, "")
    counted = {"calls": 0, "at": []}

    def count(frame, event, argument):
        counted["calls"] += event == "call"

    def begins():  # called before each call of the step; the first one compiles
        counted["at"].append(counted["calls"])
        sys.setprofile(count)
        return False

    loop = Loop(experiment, model, strategy, inputs, CheckpointStore(RunFolder.at(tmp_path), 1), should_stop=begins)
    try:
        loop.run()
    finally:
        sys.setprofile(None)
    within = np.diff(counted["at"])[[1, 2, 3, 4, 5, 9, 10, 11, 12, 13]]  # calls in the middle of an epoch
    assert within.mean() / 64 < CALLS_A_STEP


FIND = f"import sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"  # for `mlp_vae`

# Prints the collectives in the program of a step, and their data types, as one of two workers.
COLLECTIVES = """
import json, os, sys
os.environ["TF_CONFIG"] = sys.argv[1]
import numpy as np
import tensorflow as tf
from vaedist.data.lanes import LanePlan
from vaedist.data.lane_reader import LaneReader
from vaedist.launch.training.packet_filter import LOOPBACK_NETWORKS
from vaedist.launch.training.server_port import ServerPort
from mlp_vae import vae
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam, Schedule
from vaedist.training.step import TrainStep
from vaedist.devices.strategy import configure_devices, make_strategy

configure_devices(threads=1, gpus=0, logical_devices=1)
config = json.loads(sys.argv[1])
rank = config["task"]["index"]
port = int(config["cluster"]["worker"][rank].rpartition(":")[2])
with ServerPort((port, port)).admitting(LOOPBACK_NETWORKS, print):
    strategy = make_strategy(workers=2)
with strategy.scope():
    model = vae((4, 4, 3), hidden=8, latent=4, flow_depth=1, flow_width=8)
step = TrainStep(
    model, strategy, Adam(Schedule(0.01)), Objective(), global_batch=8, steps_per_call=2, norm_every=1,
    reduce_dtype=sys.argv[2], seed=0,
)
images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
plan = LanePlan(16, 4, 8, rank, 2)
chunk = LaneReader(plan, [images[lane::4] for lane in plan.owned], seed=0).read(0, 0, 2, 2)
_, finite = step.run(chunk, 0)
assert finite
scalars = tf.constant(2), tf.constant(0, tf.int64), tf.constant(0.0)
graph = step._call.get_concrete_function(step.place(chunk).batches, *scalars).graph
nodes = [node for function in graph.as_graph_def().library.function for node in function.node_def]
types = [tf.as_dtype(node.attr["T"].type).name for node in nodes if node.op.startswith("Collective")]
print(json.dumps([[node.op for node in nodes if node.op.startswith("Collective")], types]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("reduce_dtype", "carried"), [("float32", ["float32"]), ("bfloat16", ["bfloat16", "float32"])])
def test_one_collective_a_step_and_one_for_the_metrics_where_gradients_are_narrower(reduce_dtype, carried):
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    configs = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}} for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIND + COLLECTIVES, json.dumps(config), reduce_dtype],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for config in configs
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        operations, types = json.loads(out.splitlines()[-1])
        assert operations == ["CollectiveReduceV2"] * len(carried)
        assert sorted(types) == carried
