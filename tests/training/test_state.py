"""Variables that are not trained: the same on all replicas, saved, averaged, and not affected by faults or padding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_models import Dropped, Normalised, Plain
from tiny import TinyHierarchy

from vaedist.config import Experiment
from vaedist.devices.strategy import first_local
from vaedist.errors import ModelError
from vaedist.models.preprocessing import Dynamic
from vaedist.models.state import state_updates
from vaedist.objectives.objective import Objective
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.training.batch_gradient import BatchGradient
from vaedist.training.optimizer import Adam, Averaged, mass
from vaedist.training.schedule import Schedule
from vaedist.training.state import averaged, load_variables, load_weights, named_slots, named_variables
from vaedist.training.step import TrainStep

import keras  # isort: skip

SHAPE, BATCH, DECAY = (4, 6, 3), 16, 0.9


@pytest.fixture(scope="module")
def step():
    """Returns a step of a model with batch normalization, on one device, with averages."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = Normalised(SHAPE)
    return TrainStep(
        model, strategy, Averaged(Adam(Schedule(0.01)), DECAY), Objective(), global_batch=BATCH, steps_per_call=3,
        norm_every=1, seed=1,
    )  # fmt: skip


def test_resuming_needs_the_mean_kl_of_the_last_batch(reader, tmp_path):
    free_bits, lanes = 2.0, reader(BATCH)

    def make():
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            model = TinyHierarchy(SHAPE, preprocessing=Dynamic(), seed=3)
        return TrainStep(
            model, strategy, Adam(Schedule(0.01)), Objective(free_bits=free_bits, group=0), global_batch=BATCH,
            steps_per_call=3, norm_every=1, seed=1,
        )  # fmt: skip

    one, two = make(), make()
    one.run(lanes.read(0, 0, 3, 3), 0)
    means = one.group_means.numpy()
    assert 0 < np.sum(means > free_bits) < len(means), means
    store = CheckpointStore(RunFolder.at(tmp_path), keep=1)
    position = Position(0, 3, "data", SHAPE)
    store.save(position, named_variables(one.model), named_slots(one.model, one), Experiment().to_toml())
    load_variables(two.model, two, store.newest())
    np.testing.assert_array_equal(two.group_means.numpy(), means)
    for step in (one, two):
        step.run(lanes.read(0, 3, 1, 3), 3)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def statistics(model):
    return model.norm.moving_mean.numpy(), model.norm.moving_variance.numpy()


def moved(model, images):
    """Returns Keras's own moving statistics after a batch, from a copy of the model."""
    copy = type(model)(model.image_shape)
    copy.set_weights(model.get_weights())
    copy.encode(tf.constant(images), training=True)
    return statistics(copy)


def test_a_step_moves_the_statistics_as_keras_does_and_leaves_padding_out(step, reader):
    lanes = reader(BATCH)
    for number, count in ((0, 16), (1, 16), (3, 5)):  # the last batch has 5 rows
        chunk = lanes.read(0, number, 1, 3)
        assert int(chunk.counts[0, 0]) == count
        images = chunk.images[0, 0, :count].reshape(-1, *SHAPE)
        repeated = images[np.arange(BATCH) % count]
        expected = moved(step.model, repeated)
        assert step.run(chunk, number)[1]
        for found, wanted in zip(statistics(step.model), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_averages_of_statistics_are_used_in_their_context_and_in_a_model_that_is_loaded(step, reader, tmp_path):
    model, chunk, seen = step.model, reader(BATCH).read(0, 0, 1, 3), []
    for variable in (*step.slots["average"], *step.update.state_averages):
        variable.assign(tf.zeros_like(variable))
    for number in range(3):
        assert step.run(chunk, number)[1]
        seen.append(np.concatenate(statistics(model)))
    powers = DECAY ** np.arange(3)[::-1]
    expected = np.tensordot(powers, np.array(seen), 1) / powers.sum()
    with averaged(model, step, 3):
        np.testing.assert_allclose(np.concatenate(statistics(model)), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.concatenate(statistics(model)), seen[-1])
    store = CheckpointStore(RunFolder.at(tmp_path), keep=1)
    position = Position(0, 3, "data", SHAPE)
    store.save(position, named_variables(model), named_slots(model, step), Experiment().to_toml())
    checkpoint = store.newest()
    loaded = Normalised(SHAPE, seed=9)
    load_weights(loaded, checkpoint, DECAY)
    np.testing.assert_allclose(np.concatenate(statistics(loaded)), expected, rtol=1e-5)
    assert mass(DECAY, 3) == pytest.approx(powers.sum() * (1 - DECAY))
    before = [variable.numpy() for variable in (*model.variables, *step.update.state_averages)]
    for variable in (*model.variables, *step.update.state_averages):
        variable.assign(tf.ones_like(variable))
    load_variables(model, step, checkpoint)
    for variable, value in zip((*model.variables, *step.update.state_averages), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_new_value_that_is_not_finite_changes_nothing_and_is_named(step, reader):
    chunk = reader(BATCH).read(0, 0, 1, 3)
    kernel = step.model.hidden.kernel
    right = kernel.numpy()
    kernel.assign(1e25 * right)  # the variance overflows, so that the normalised values are 0, and the loss is finite
    before = [variable.numpy() for variable in (*step.model.variables, *step.update.state_averages)]
    metrics, finite = step.run(chunk, 0)
    assert not finite
    assert np.isfinite(metrics[0, : len(step.sums)]).all()
    for variable, value in zip((*step.model.variables, *step.update.state_averages), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert "batch_normalization/moving_variance" in step.weights_at_fault(chunk, 0, 0)
    kernel.assign(right)
    assert step.run(chunk, 0)[1]


def test_a_step_assigns_nothing_to_the_model_while_it_takes_gradients(step, reader):
    batches = step.place(reader(BATCH).read(0, 0, 1, 3)).batches
    batch = type(batches)(*(first_local(step.strategy, part)[0] for part in batches))

    def taken(batch):
        return step._gradients(batch, tf.constant(0, tf.int64), tf.constant(0.0), 0)

    graph = tf.function(taken, autograph=False).get_concrete_function(batch).graph
    assert [op.type for op in graph.get_operations() if "Assign" in op.type] == []
    gradients, _ = taken(batch)
    for weight, gradient in zip(step.model.trainable_variables, gradients, strict=True):
        if weight.path != "dense/bias":  # which normalisation cancels
            assert np.abs(gradient).max() > 1e-4, weight.path


def test_every_instance_of_a_model_has_the_same_paths():
    paths = [[variable.path for variable in Normalised(SHAPE).variables] for _ in range(2)]
    assert paths[0] == paths[1]
    assert len(set(paths[0])) == len(paths[0])


def gradient_of(model):
    return BatchGradient(model, Objective(), global_batch=4, accumulation_steps=1, kernel_first=False, seed=0)


def test_state_that_cannot_be_averaged_is_refused():
    with pytest.raises(ModelError, match=r"model Dropped has the variable seed_generator/.* of type int64") as error:
        gradient_of(Dropped())
    assert "\n" not in str(error.value)


def test_two_variables_with_one_path_are_refused():
    class Twice(Plain):
        def dense(self, *sizes, **options):
            return super().dense(*sizes, **options, name="same")

    with pytest.raises(ModelError, match="model Twice has two variables with the path same/kernel: each layer"):
        gradient_of(Twice())


def test_a_frozen_layer_is_a_constant():
    class Frozen(Normalised):
        def make(self):
            super().make()
            self.hidden.trainable = False

    gradient = gradient_of(Frozen())
    assert [variable.path for variable in gradient.state] == [
        "batch_normalization/moving_mean", "batch_normalization/moving_variance"
    ]  # fmt: skip


def test_values_that_a_model_assigns_in_a_context_are_collected_and_not_assigned():
    variable = keras.Variable([1.0, 2.0], trainable=False)
    with state_updates([variable], [tf.constant([5.0, 6.0])]) as updates:
        variable.assign(variable + 1)
    np.testing.assert_array_equal(updates[0], [6.0, 7.0])
    np.testing.assert_array_equal(variable, [1.0, 2.0])


# A model with batch normalization, with and without declared products, on one replica and on two, of which the second
# has fewer rows of the last batch; and a test pass over copies that differ.
REPLICAS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from vaedist.devices.strategy import configure_devices, local_replica, make_strategy
configure_devices(threads=1, gpus=0, logical_devices=2)
import tensorflow as tf
import keras
from small_models import LATENT, Normalised
from vaedist.data.lanes import LanePlan
from vaedist.data.lane_reader import LaneReader
from vaedist.devices.compilation import compiled, traced
from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.products import Dense
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import Adam, Averaged, Schedule
from vaedist.training.step import TrainStep

class Declared(Normalised):
    def make(self):
        super().make()
        self.hidden = Dense(60, use_bias=False, kernel_initializer=keras.initializers.GlorotUniform(4), name="wide")
        self.hidden.build((None, self.pixels))
        self.norm = keras.layers.BatchNormalization(momentum=0.8)
        self.norm.build((None, 60))
        self.out = self.dense(60, 2 * LATENT)
    products = property(lambda self: [self.hidden.product])

strategy = make_strategy(workers=1)
images = np.random.default_rng(0).integers(0, 256, (22, 8, 8, 1), dtype=np.uint8)
reader = LaneReader(LanePlan(22, 4, 8), [images[lane::4] for lane in range(4)], replicas=2, seed=0)
chunk = reader.read(0, 0, 3, 3)
found = {}
for name, make in {"plain": Normalised, "declared": Declared}.items():
    with strategy.scope():
        model = make((8, 8, 1))
    step = TrainStep(
        model, strategy, Averaged(Adam(Schedule(0.01)), 0.9), Objective(), global_batch=8, steps_per_call=1,
        norm_every=1, seed=0,
    )
    gradients_of = compiled(lambda *args: step._gradients(*args)[0])

    def of_replica(batches, number):
        batch = type(batches)(*(part[0] for part in batches))
        return gradients_of(batch, number, tf.constant(0.0), local_replica(strategy))

    apart, expected_apart, gradients_apart = [], [], []
    for k in range(3):
        one = reader.read(0, k, 1, 1)
        counts = one.counts[:, 0]
        expected = []
        for own in range(2):
            copy = make((8, 8, 1))
            copy.set_weights(model.get_weights())
            rows = one.images[own, 0].reshape(-1, 8, 8, 1)
            rows = rows[np.arange(len(rows)) % max(counts[own], 1)]
            copy.encode(tf.constant(rows), training=True)
            moved = [variable.numpy() for variable in (copy.norm.moving_mean, copy.norm.moving_variance)]
            expected.append(counts[own] * np.concatenate(moved))
        parts = step.place(one).batches
        before = [slot.numpy() for slot in step.slots["m"]]
        partial = traced(strategy.run)(of_replica, args=(parts, tf.constant(k, tf.int64)))
        summed = [[gradient.values[own].numpy() for gradient in partial] for own in range(2)]
        assert step.run(one, k)[1]
        # the gradient that was applied, from the first moment m' = m + 0.1 (g - m)
        for slot, old, a, b in zip(step.slots["m"], before, *summed, strict=True):
            applied = old + (slot.numpy() - old) / 0.1
            gradients_apart.append(float(np.abs(applied - a - b).max()))
        mirrored = (*step.state, *step.update.state_averages)
        apart.append(all(np.array_equal(*(copy.numpy() for copy in value.values)) for value in mirrored))
        state = np.concatenate([value.numpy() for value in step.state])
        expected_apart.append(float(np.abs(state - sum(expected) / counts.sum()).max()))
    found[name] = [apart, max(expected_apart), max(gradients_apart), len(model.products), counts.tolist()]

evaluator = Evaluator(model, strategy, reader, seed=0)
chunk = step.place(chunk)
equal = evaluator._evaluate(chunk, 0)
model.norm.moving_mean.value.values[1].assign_add(tf.ones(60))
other = evaluator._evaluate(chunk, 0)
found["evaluated"] = [np.array_equal(equal[0], other[0]), np.array_equal(equal[1], other[1])]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def on_two_devices():
    said = subprocess.run(
        [sys.executable, "-c", REPLICAS, str(Path(__file__).parents[1])],
        env=os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    return json.loads(said.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "products"), [("plain", 0), ("declared", 1)])
def test_replicas_have_the_same_statistics_the_mean_of_their_own_weighted_by_rows(on_two_devices, name, products):
    same, statistics, gradients, declared, counts = on_two_devices[name]
    assert counts[0] > counts[1]  # in the last batch
    assert declared == products
    assert same == [True] * 3
    assert statistics < 1e-5
    assert gradients < 1e-5


def test_an_evaluation_reads_the_replicas_own_copy(on_two_devices):
    assert on_two_devices["evaluated"] == [True, False]
