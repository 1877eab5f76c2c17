"""The step on two logical devices, in a separate process per test, as TensorFlow configures devices only once."""

import subprocess
import sys
from pathlib import Path

import pytest

FIND = f"import sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"  # for `mlp_vae`

# A kernel's or a bias's gradient overflows on the second replica; its loss, and the first replica, are finite.
FAULT = """
import sys
import numpy as np
import tensorflow as tf
from vaedist.data.lanes import LanePlan
from vaedist.data.lane_reader import LaneReader
from mlp_vae import vae
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam
from vaedist.training.schedule import Schedule
from vaedist.training.step import TrainStep
from vaedist.devices.strategy import configure_devices, make_strategy

configure_devices(threads=1, gpus=0, logical_devices=2)
strategy = make_strategy(workers=1)
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = vae((4, 4, 3), hidden=8, latent=4, flow_depth=1, flow_width=8)
step = TrainStep(
    model, strategy, Adam(Schedule(0.01)), Objective(), global_batch=8, steps_per_call=2, norm_every=9, seed=0
)
images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
chunk = LaneReader(LanePlan(16, 4, 8), [images[lane::4] for lane in range(4)], replicas=2, seed=0).read(0, 0, 2, 2)
paths, gradients_of = [weight.path for weight in model.trainable_variables], step._gradients

def poisoned(batch, step, stop, own, *options, **more):
    gradients, sums = gradients_of(batch, step, stop, own, *options, **more)
    if own == 1:
        i = paths.index(sys.argv[1])
        whole = hasattr(gradients[i], "dtype")  # and not two factors
        gradients[i] = np.inf * gradients[i] if whole else type(gradients[i])(gradients[i].x, np.inf * gradients[i].dy)
    return gradients, sums

step._gradients = poisoned
before = [weight.numpy() for weight in model.trainable_variables]
metrics, finite = step.run(chunk, 0)
assert not finite and len(metrics) == 1
assert np.isfinite(metrics[0, : len(step.sums)]).all()
for copy in range(2):
    after = [weight.value.values[copy].numpy() for weight in model.trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after)), copy
print(*step.weights_at_fault(chunk, 0, 0))
step._gradients = gradients_of
assert step.weights_at_fault(chunk, 0, 0) == []
"""


# Two steps with gradients summed in another type; prints the relative error of the first moments.
NARROW = """
import numpy as np
from vaedist.data.lanes import LanePlan
from vaedist.data.lane_reader import LaneReader
from mlp_vae import vae
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam
from vaedist.training.schedule import Schedule
from vaedist.training.step import TrainStep
from vaedist.devices.strategy import configure_devices, make_strategy

configure_devices(threads=1, gpus=0, logical_devices=2)
strategy = make_strategy(workers=1)
images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
chunk = LaneReader(LanePlan(16, 4, 8), [images[lane::4] for lane in range(4)], replicas=2, seed=0).read(0, 0, 2, 2)
moments = []
for reduce_dtype in (None, "float32", "bfloat16"):
    with strategy.scope():
        model = vae((4, 4, 3), hidden=8, latent=4, flow_depth=1, flow_width=8)
    step = TrainStep(
        model, strategy, Adam(Schedule(0.01)), Objective(), global_batch=8, steps_per_call=2, norm_every=1,
        reduce_dtype=reduce_dtype, seed=0,
    )
    metrics, finite = step.run(chunk, 0)
    assert finite and metrics[0, 0] == 8  # rows are counted in float32
    first = np.concatenate([moment.numpy().ravel() for moment in next(iter(step.slots.values()))])
    moments.append(first)
plain, same, narrow = moments
print(np.array_equal(plain, same), np.abs(narrow - plain).max() / np.abs(plain).max())
"""


# Three steps on one replica and on two, of which the second has fewer rows of the last batch, or none, with or without
# gradient accumulation. Prints the difference of the weights, and the numbers of kernels whose gradients are reduced as
# factors and as a whole.
FACTORS = """
import sys
import numpy as np
import tensorflow as tf
from vaedist.data.lanes import LanePlan
from vaedist.data.lane_reader import LaneReader
from mlp_vae import vae
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam
from vaedist.training.schedule import Schedule
from vaedist.training.step import TrainStep
from vaedist.devices.strategy import configure_devices, make_strategy

rows, clip_norm, parts = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
configure_devices(threads=1, gpus=0, logical_devices=2)
both = make_strategy(workers=1)
alone = tf.distribute.MirroredStrategy(both.extended.worker_devices[:1])
images = np.random.default_rng(0).integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8)
found = []
for strategy in (alone, both):
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = vae((4, 4, 3), hidden=40, latent=20, flow_depth=2, flow_width=48)
    step = TrainStep(
        model, strategy, Adam(Schedule(0.01)), Objective(), global_batch=8, steps_per_call=3, norm_every=1,
        clip_norm=clip_norm, accumulation_steps=parts if replicas > 1 else 1, seed=0,
    )
    lanes = [images[lane::4] for lane in range(4)]
    chunk = LaneReader(LanePlan(rows, 4, 8), lanes, replicas=replicas, seed=0).read(0, 0, 3, 3)
    metrics, finite = step.run(chunk, 0)
    assert finite
    found.append((metrics, [weight.numpy() for weight in model.trainable_variables]))
(metrics, weights), (metrics_2, weights_2) = found
np.testing.assert_allclose(metrics_2, metrics, rtol=1e-5)
factored = len(step._packing.factored)
print(factored, len(model.products) - factored, max(np.abs(a - b).max() for a, b in zip(weights, weights_2)))
"""


CASES = (22, 0.0, 1), (18, 0.0, 3)


@pytest.mark.parametrize(
    ("rows", "clip_norm", "parts"), [(18, 0.5, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES)]
)
def test_replicas_give_the_weights_that_one_device_gives(rows, clip_norm, parts):
    said = subprocess.run(
        [sys.executable, "-c", FIND + FACTORS, str(rows), str(clip_norm), str(parts)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    factored, whole, apart = said.stdout.splitlines()[-1].split()
    assert (int(factored) > 1) == (parts == 1)  # with accumulation, gradients are reduced as a whole
    assert int(whole) > 1
    assert float(apart) < 1e-5  # changed by three updates of 0.01


@pytest.mark.slow
def test_gradients_summed_in_bfloat16_are_close_and_not_the_same():
    said = subprocess.run([sys.executable, "-c", FIND + NARROW], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    same, apart = said.stdout.splitlines()[-1].split()
    assert same == "True"
    assert 1e-5 < float(apart) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("path", ["vae/decoder/out/kernel", "vae/decoder/out/bias"])
def test_a_gradient_that_overflows_on_another_replica_changes_no_weight_and_is_named(path):
    said = subprocess.run([sys.executable, "-c", FIND + FAULT, path], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    assert said.stdout.splitlines()[-1] == path
