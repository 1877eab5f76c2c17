"""Variables of the model and the optimizer as named arrays, for saving and restoring checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from vaedist.errors import CheckpointError
from vaedist.models.model import Model
from vaedist.runs.checkpoint import Checkpoint
from vaedist.training.optimizer import AVERAGE, Averaged, mass
from vaedist.training.step import TrainStep

GROUP_MEANS = "free_bits/group_means"


def named_variables(model: Model) -> dict[str, np.ndarray]:
    """Returns all of the model's variables, trained or not, by their Keras paths."""
    return {variable.path: variable.numpy() for variable in model.variables}


def named_slots(model: Model, step: TrainStep) -> dict[str, np.ndarray]:
    """Returns the optimizer's slots, as slot/path of the variable, and the mean KL that free bits depend on."""
    return {name: variable.numpy() for name, variable in _slots(model, step)}


def load_variables(model: Model, step: TrainStep, checkpoint: Checkpoint) -> None:
    """Restores the variables of the model and the optimizer from a checkpoint.

    Raises:
        CheckpointError: a tensor is missing or has another shape; nothing was changed.
    """
    variables = {v.path: v.value for v in model.variables} | dict(_slots(model, step))
    assign(variables, checkpoint.weights() | checkpoint.optimizer(), str(checkpoint.path))


def load_weights(model: Model, checkpoint: Checkpoint, ema_decay: float = 0.0) -> None:
    """Restores the model's variables from a checkpoint: their moving averages if the run kept them.

    Args:
        model: the model to change.
        checkpoint: the checkpoint.
        ema_decay: decay of the run's moving averages; 0 if it kept none.

    Raises:
        CheckpointError: a tensor is missing or has another shape; nothing was changed.
    """
    arrays = checkpoint.weights()
    if ema_decay and checkpoint.position.step:
        slots, whole = checkpoint.optimizer(), np.float32(mass(ema_decay, checkpoint.position.step))
        averages = {path: slots[f"{AVERAGE}/{path}"] for path in arrays if f"{AVERAGE}/{path}" in slots}
        constants = {variable.path for variable in model.non_trainable_variables}  # used if they have no average
        arrays = {path: array for path, array in arrays.items() if path in constants}
        arrays |= {path: average / whole for path, average in averages.items()}
    assign({v.path: v.value for v in model.variables}, arrays, str(checkpoint.path))


@contextmanager
def averaged(model: Model, step: TrainStep, taken: int) -> Iterator[None]:
    """Sets the model's variables to their moving averages within the context, if the optimizer keeps any.

    Args:
        model: the model.
        step: the training step that holds the averages.
        taken: number of updates made.
    """
    optimizer = step.optimizer
    if not isinstance(optimizer, Averaged) or not taken:
        yield
        return
    averages = [*step.slots[AVERAGE], *step.update.state_averages]
    variables = [*step.weights, *step.state]
    own = [variable.numpy() for variable in variables]
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average.numpy() / np.float32(mass(optimizer.decay, taken)))
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def assign(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Assigns arrays to the variables of the same names.

    Raises:
        CheckpointError: an array is missing or has another shape; nothing was changed.
    """
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


def _slots(model: Model, step: TrainStep) -> Iterator[tuple[str, Any]]:
    for slot, variables in step.slots.items():
        for weight, variable in zip(model.trainable_variables, variables, strict=True):
            yield f"{slot}/{weight.path}", variable
    for weight, variable in zip(step.gradient.state, step.update.state_averages):  # noqa: B905 - there may be none
        yield f"{AVERAGE}/{weight.path}", variable
    if step.group_means is not None:
        yield GROUP_MEANS, step.group_means
