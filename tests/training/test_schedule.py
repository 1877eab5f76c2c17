"""Learning rate schedules against their formulas and against Keras's."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import Plain

from vaedist.config import Experiment
from vaedist.devices.compilation import compiled
from vaedist.objectives.objective import Objective
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.training.optimizer import make_optimizer
from vaedist.training.schedule import Fall, Schedule, Steps, make_schedule
from vaedist.training.state import load_variables, named_slots, named_variables
from vaedist.training.step import TrainStep

import keras  # isort: skip

BURDA = {  # as in section 5 of Burda et al. 2016: 0.001 * 10^(-i/7) for 3^i epochs, i = 0, ..., 7
    "learning_rate": 0.001,
    "schedule": "steps",
    "decay_epochs": [1, 4, 13, 40, 121, 364, 1093],
    "decay_factors": [10 ** (-i / 7) for i in range(1, 8)],
}


def made(steps_per_epoch, **training):
    return make_schedule(Experiment.from_dict({"training": training}).training, steps_per_epoch)


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_a_cosine_rises_and_falls_by_its_formula():
    schedule = Schedule(2.0, 4, Fall("cosine", 4, 12))
    cosine = [1 + np.cos(np.pi * (t - 4) / 8) for t in range(4, 13)]
    np.testing.assert_allclose(rates(schedule, range(14)), [0.5, 1.0, 1.5, 2.0, *cosine, 0.0], atol=1e-6)
    assert [float(Schedule(2.0)(step)) for step in (0, 10**6)] == [2.0, 2.0]


def test_the_end_of_a_cosine_is_as_exact_as_its_beginning():
    total, warmup = 50_000_000, 1000
    schedule = Schedule(1.0, warmup, Fall("cosine", warmup, total))
    for left in (total - warmup - 1, total // 2, 100_000, 1000, 3, 1):
        exact = np.sin(np.pi / 2 * left / (total - warmup)) ** 2  # = (1 + cos(pi (1 - left / (total - warmup)))) / 2
        assert float(schedule(total - left)) == pytest.approx(exact, rel=1e-6)


KERAS = keras.optimizers.schedules


@pytest.mark.parametrize(
    ("training", "reference"),
    [
        ({"schedule": "cosine"}, KERAS.CosineDecay(0.5, 60)),
        ({"schedule": "cosine", "decay_to": 0.2}, KERAS.CosineDecay(0.5, 60, alpha=0.2)),
        ({"schedule": "linear"}, KERAS.PolynomialDecay(0.5, 60, end_learning_rate=0.0)),
        ({"schedule": "linear", "decay_to": 0.2}, KERAS.PolynomialDecay(0.5, 60, end_learning_rate=0.1)),
        ({"schedule": "exponential", "decay_to": 0.01}, KERAS.ExponentialDecay(0.5, 60, 0.01)),
        (  # Keras's boundaries are the last steps with the old rate
            {"schedule": "steps", "decay_epochs": [0.25, 2, 5], "decay_factors": [0.4, 0.2, 0.8]},
            KERAS.PiecewiseConstantDecay([4, 39, 99], [0.5, 0.2, 0.1, 0.4]),
        ),
    ],
    ids=["cosine", "cosine to 0.2", "linear", "linear to 0.2", "exponential", "steps"],
)
def test_each_is_that_of_keras(training, reference):
    schedule = made(20, epochs=3, learning_rate=0.5, **training)
    expected = [float(reference(step)) for step in range(60)]
    np.testing.assert_allclose(rates(schedule, range(60)), expected, rtol=1e-5, atol=1e-7)
    in_a_program = compiled(schedule)
    found = [float(in_a_program(tf.constant(t, tf.int64))) for t in (0, 5, 40)]
    np.testing.assert_allclose(found, np.array(expected)[[0, 5, 40]], rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
def test_a_decay_starts_after_the_warm_up_and_ends_with_the_last_epoch(schedule):
    found = rates(made(20, epochs=3, learning_rate=0.5, schedule=schedule, decay_to=0.1, warmup_steps=10), range(70))
    np.testing.assert_allclose(found[:11], 0.5 * np.minimum(1, np.arange(1, 12) / 10), rtol=1e-5)
    assert (np.diff(found[10:61]) < 0).all()
    np.testing.assert_allclose(found[60:], 0.05, rtol=1e-5)


def test_the_schedule_of_burda_et_al_can_be_written():
    per_epoch = 3
    schedule = made(per_epoch, epochs=3280, **BURDA)
    expected = np.concatenate([np.full(3**i * per_epoch, 0.001 * 10 ** (-i / 7)) for i in range(8)])
    assert len(expected) == 3280 * per_epoch
    edges = per_epoch * np.cumsum([3**i for i in range(8)])
    steps = sorted({0, *(edges - 1), *edges[:-1], 100, 5000})
    np.testing.assert_allclose(rates(schedule, steps), expected[steps], rtol=1e-6)


def test_the_same_shape_fits_into_fewer_epochs():
    """Boundaries may be fractions of an epoch."""
    short = made(1000, **{**BURDA, "epochs": 328, "decay_epochs": [each / 10 for each in BURDA["decay_epochs"]]})
    for i, end in enumerate(BURDA["decay_epochs"]):
        found = rates(short, (end * 100 - 1, end * 100))
        np.testing.assert_allclose(found, [0.001 * 10 ** (-i / 7), 0.001 * 10 ** (-(i + 1) / 7)], rtol=1e-6)


def test_boundaries_beyond_float32_are_exact():
    edge = 2**24 + 1
    assert rates(Schedule(1.0, 0, Steps((edge,), (0.5,))), (edge - 1, edge)).tolist() == [1.0, 0.5]


def test_a_resumed_run_makes_the_same_updates(reader, tmp_path):
    """The rate changes in the middle of the resumed part, at another place of its call of several steps."""
    lanes, settings = reader(16), {"learning_rate": 0.01, "decay_epochs": [1.5, 2.5], "decay_factors": [0.3, 0.1]}
    training = Experiment.from_dict({"training": {"schedule": "steps", **settings}}).training

    def make(steps_per_call):
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            model = Plain((4, 6, 3))
        return TrainStep(
            model, strategy, make_optimizer(training, 2), Objective(), global_batch=16, steps_per_call=steps_per_call,
            norm_every=1, seed=1,
        )  # fmt: skip

    whole, first, second = make(6), make(4), make(4)
    whole.run(lanes.read(0, 0, 6, 6), 0)
    first.run(lanes.read(0, 0, 2, 4), 0)
    store = CheckpointStore(RunFolder.at(tmp_path), keep=1)
    position = Position(0, 2, "data", (4, 6, 3))
    store.save(position, named_variables(first.model), named_slots(first.model, first), Experiment().to_toml())
    load_variables(second.model, second, store.newest())
    second.run(lanes.read(0, 2, 4, 4), 2)
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert rates(second.optimizer.schedule, range(6)) == pytest.approx([0.01] * 3 + [0.003] * 2 + [0.001])
