"""Data-dependent initialisation of a new run's model, with the same result on any number of workers."""

from typing import Any

import tensorflow as tf

from vaedist.data.rows import SplitRows
from vaedist.devices.compilation import traced
from vaedist.devices.strategy import first_local, local_replica
from vaedist.evaluation.scoring import training_noise
from vaedist.models.model import Model
from vaedist.models.rng import POSTERIOR, row_noise
from vaedist.user_code import user_code

INITIAL_STEP = -1  # keys the noise, before the first update


def initialise_from_data(model: Model, strategy: Any, rows: SplitRows | None, *, seed: int) -> None:
    """Initialises a model from the first training images, on the first worker, and copies its variables to the others.

    All workers of a run must call this. It does nothing if the model's `initial_rows` is 0.

    Args:
        model: the model, created in the strategy's scope.
        strategy: the strategy over all devices.
        rows: the training images, on the first worker; None on the others.
        seed: key of the noise.

    Raises:
        DataError: a shard is missing or damaged.
        UserCodeError: the model is a user's, and raises an exception.
    """
    if not model.initial_rows:
        return
    if rows is not None:
        images = rows.read(0, model.initial_rows)
        eps = row_noise(seed, POSTERIOR, INITIAL_STEP, 0, len(images), model.noise, dtype=model.variable_dtype)
        numbers = tf.constant(rows.numbers(0, model.initial_rows))
        u = training_noise(model, seed, INITIAL_STEP, 0, numbers)
        with user_code(f"model {type(model).__name__}: it cannot be initialised from images"):
            model.initialise(tf.constant(images), eps, u)
    if strategy.num_replicas_in_sync > len(strategy.extended.worker_devices):
        _copy_from_first(model, strategy, first=rows is not None)


def _copy_from_first(model: Model, strategy: Any, *, first: bool) -> None:
    """Assigns the first replica's values of a model's variables to those of all replicas."""
    variables = [variable.value for variable in model.variables]

    def replica() -> list[Any]:
        own = local_replica(strategy)
        chosen = tf.identity if first and own == 0 else tf.zeros_like
        with tf.device(strategy.extended.worker_devices[own]):  # an all-reduce needs to know the device of each value
            values = [chosen(variable.values[own]) for variable in variables]
        summed: list[Any] = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
        return summed

    for variable, value in zip(variables, traced(strategy.run)(replica), strict=True):
        variable.assign(first_local(strategy, value))
