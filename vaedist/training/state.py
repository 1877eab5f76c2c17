"""The state of a training, as named arrays: what goes into a checkpoint and comes back out of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from vaedist.errors import CheckpointError
from vaedist.models import VAE
from vaedist.runs.checkpoint import Checkpoint
from vaedist.training.optimizer import Averaged, mass
from vaedist.training.step import TrainStep


def named_weights(model: VAE) -> dict[str, np.ndarray]:
    """The model's weights by their Keras paths."""
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def named_slots(model: VAE, step: TrainStep) -> dict[str, np.ndarray]:
    """The optimizer's slots, as slot/path of the weight."""
    return {name: variable.numpy() for name, variable in _slots(model, step)}


def load_variables(model: VAE, step: TrainStep, checkpoint: Checkpoint) -> None:
    """Give the model and the optimizer the checkpoint's numbers.

    Raises:
        CheckpointError: a tensor is missing or has another shape; nothing was changed.
    """
    where = str(checkpoint.path)
    assign({v.path: v.value for v in model.trainable_variables}, checkpoint.weights(), where)
    assign(dict(_slots(model, step)), checkpoint.optimizer(), where)


def load_weights(model: VAE, checkpoint: Checkpoint, ema_decay: float = 0.0) -> None:
    """Give the model the checkpoint's weights, or their moving averages, where they were kept with a decay.

    Raises:
        CheckpointError: a tensor is missing or has another shape; nothing was changed.
    """
    arrays = checkpoint.weights()
    if ema_decay and checkpoint.position.step:
        slots, whole = checkpoint.optimizer(), np.float32(mass(ema_decay, checkpoint.position.step))
        arrays = {path: slots[f"average/{path}"] / whole for path in arrays if f"average/{path}" in slots}
    assign({v.path: v.value for v in model.trainable_variables}, arrays, str(checkpoint.path))


@contextmanager
def averaged(model: VAE, step: TrainStep, taken: int) -> Iterator[None]:
    """Have the model's weights be their moving averages meanwhile, where the optimizer keeps these.

    Args:
        model: whose weights.
        step: with the averages.
        taken: updates made.
    """
    optimizer = step.optimizer
    if not isinstance(optimizer, Averaged) or not taken:
        yield
        return
    variables = [variable.value for variable in model.trainable_variables]
    own = [variable.numpy() for variable in variables]
    for variable, average in zip(variables, step.slots["average"], strict=True):
        variable.assign(average.numpy() / np.float32(mass(optimizer.decay, taken)))
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def assign(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Assign arrays to the variables of the same names, all or none."""
    missing = sorted(variables.keys() - arrays.keys())
    if missing:
        raise CheckpointError(f"checkpoint {where} does not fit the model: it has no {missing[0]}")
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise CheckpointError(
                f"checkpoint {where} does not fit: {name} has shape {list(arrays[name].shape)} there "
                f"and {list(variable.shape)} in the model; the images or the sizes of the model have changed"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _slots(model: VAE, step: TrainStep) -> Iterator[tuple[str, Any]]:
    for slot, variables in step.slots.items():
        for weight, variable in zip(model.trainable_variables, variables, strict=True):
            yield f"{slot}/{weight.path}", variable
