"""A worker trains on its assigned devices, or ends with an error; it never silently uses others."""

import os
import subprocess
import sys

import pytest

from vaedist.config import Experiment
from vaedist.devices.gpus import share_of_memory
from vaedist.errors import ClusterError, ConfigError

DEVICES = """
import tensorflow as tf
from vaedist.devices.strategy import configure_devices, local_devices, make_strategy, require_replicas
configure_devices(threads=3, gpus=0, logical_devices=2)
strategy = make_strategy(1)
require_replicas(strategy, 1, 2)
assert tf.config.threading.get_intra_op_parallelism_threads() == 3
assert local_devices(strategy) == 2
try:
    require_replicas(strategy, 1, 1)
except Exception as error:
    print(type(error).__name__, error)
tf.constant(1.0) + 1
try:
    configure_devices(threads=2, gpus=0, logical_devices=2)  # too late: never ignored
except RuntimeError:
    print("too late")
"""
PLACED = """
import numpy as np
from vaedist.data.lane_reader import Chunk
from vaedist.devices.batches import place
from vaedist.devices.strategy import configure_devices, make_strategy
configure_devices(threads=1, gpus=0, logical_devices=2)
strategy = make_strategy(1)
images, zeros = np.zeros((2, 1, 2, 4, 4, 1), np.uint8), np.zeros((2, 1), np.int64)
chunk = Chunk(0, 0, 1, images, zeros, zeros.astype(np.int32), np.arange(4).reshape(2, 1, 2))
for part in strategy.experimental_local_results(place(strategy, chunk).batches.numbers):
    print(part.device[-5:], part.numpy()[0])
"""
PROMISED = """
from vaedist.devices.strategy import configure_devices
configure_devices(threads=1, gpus=2, logical_devices=1)
"""
# The flags for XLA are the same on CPUs, which ignore them.
PRECISION = """
import tensorflow as tf
from vaedist.devices.compilation import compiled
from vaedist.devices.gpus import allow_tensor_float_32
for allowed in (True, False):
    allow_tensor_float_32(allowed)
    product = compiled(lambda x: tf.matmul(x, x))
    text = product.experimental_get_compiler_ir(tf.ones((4, 4)))(stage="hlo")
    assert "dot(" in text
    print("float32" if "operand_precision={highest,highest}" in text else "TF32")
"""
OTHER_DATA = """
import os
from vaedist.config import Experiment
from vaedist.runs.folder import RunFolder
from vaedist.training.worker import Worker, train
experiment = Experiment().with_overrides(
    f"data.path='{os.environ['DATA']}'", f"run.folder='{os.environ['RUNS']}'", "run.name=run", "training.epochs=1",
    "model.hidden=4", "model.latent=2", "model.flow.depth=0", "training.global_batch=16", "training.eval_batch=16",
)
experiment = experiment.with_overrides(f"training.precision={os.environ.get('PRECISION', 'float32')}")
# As a worker on a machine where the path holds other data hears from the first one.
other = lambda value: "0" * 64 if isinstance(value, str) else value
train(experiment, RunFolder.of(experiment), Worker(agree=other, notify=lambda event: print(event.text)))
"""


def run(program, **variables):
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture
def no_gpus():
    found = run("import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))")
    if found.stdout.strip() != "0":
        pytest.skip("this machine has GPUs")


def test_threads_and_devices_are_those_asked_for_or_an_error():
    said = run(DEVICES)
    assert said.returncode == 0, said.stderr[-3000:]
    lines = said.stdout.splitlines()
    assert lines == [
        "ClusterError TensorFlow trains on 2 devices, 2 of them on this worker; requested were 1 worker of 1 device",
        "too late",
    ]


@pytest.mark.slow
def test_a_worker_that_sees_fewer_gpus_than_assigned_reports_the_reason(no_gpus):
    said = run(PROMISED, CUDA_VISIBLE_DEVICES="0,1")
    assert said.returncode != 0, "it would train on the CPU"
    line = said.stderr.splitlines()[-1]
    assert line.startswith("vaedist.errors.ClusterError: a worker on ")
    assert "was assigned 2 GPU(s), and TensorFlow sees 0: " in line
    assert "driver" in line or "CUDA" in line


def test_a_fraction_of_a_gpu_is_a_fraction_of_its_memory():
    assert share_of_memory(0.5, 80 << 30) == 40 * 1024 - 600
    assert 4 * (share_of_memory(0.25, 16 << 30) + 600) == 16 * 1024  # four processes fit, with their contexts
    with pytest.raises(ClusterError, match=r"gpus_per_worker = 0\.05: .* 16\.0 GiB .* must be at least 0\.07"):
        share_of_memory(0.05, 16 << 30)


@pytest.mark.slow
def test_chunks_are_on_the_devices_of_their_replicas():
    said = run(PLACED)
    assert said.returncode == 0, said.stderr[-3000:]
    assert said.stdout.splitlines() == ["CPU:0 [0 1]", "CPU:1 [2 3]"]


@pytest.mark.parametrize("workers", ["2", "[1, 2]"])
def test_workers_of_one_run_cannot_share_a_gpu(workers):
    with pytest.raises(ConfigError, match=r"gpus_per_worker = 0\.5 requires workers = 1"):
        Experiment().with_overrides(f"scaling.workers={workers}", "scaling.gpus_per_worker=0.5")
    assert Experiment().with_overrides("scaling.gpus_per_worker=0.5").scaling.devices_per_worker == 1


@pytest.mark.slow
def test_products_are_compiled_for_float32_unless_tf32_is_allowed():
    said = run(PRECISION)
    assert said.returncode == 0, said.stderr[-3000:]
    assert said.stdout.splitlines() == ["TF32", "float32"]
    assert Experiment().training.precision == "float32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "says"), [("float32", ""), ("tf32", "has no effect on CPUs"), ("mixed_bfloat16", "is not faster")]
)
def test_a_precision_that_does_not_speed_up_cpus_is_pointed_out(small_dataset, tmp_path, precision, says):
    said = run(OTHER_DATA, DATA=str(small_dataset), RUNS=str(tmp_path), PRECISION=precision)
    lines = said.stdout.splitlines()
    assert len(lines) == bool(says)
    assert not says or (f"training.precision = '{precision}'" in lines[0] and says in lines[0])


def test_a_worker_whose_data_differ_from_the_first_one_raises_an_error(small_dataset, tmp_path):
    said = run(OTHER_DATA, DATA=str(small_dataset), RUNS=str(tmp_path))
    line = said.stderr.splitlines()[-1]
    assert said.returncode != 0, "it would train on them"
    assert line.startswith("vaedist.errors.DataError: worker 0 on ")
    assert f"finds other data at {small_dataset} than the first worker" in line
