"""Variables of a model that are not trained, such as the moving statistics of normalisation layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from vaedist.errors import ModelError
from vaedist.models.model import Model


def state_variables(model: Model, score: Callable[[], Any]) -> list[Any]:
    """Returns the variables that a training step assigns without training them; all hold floating-point numbers.

    Other variables that are not trained, such as those of a frozen layer, are constants.

    Args:
        model: the model.
        score: scores a batch as a training step does; called once, to see which variables it assigns.

    Raises:
        ModelError: one is of another type, as the state of a random number generator is.
    """
    untrained = list(model.non_trainable_variables)
    scope = keras.StatelessScope(state_mapping=[(variable, variable.value) for variable in untrained])
    before = [scope.get_current_value(variable) for variable in untrained]
    with scope:
        score()
    after = [scope.get_current_value(variable) for variable in untrained]
    variables = [variable for variable, old, new in zip(untrained, before, after, strict=True) if new is not old]
    for variable in variables:
        if "float" not in str(variable.dtype):
            raise ModelError(
                f"model {type(model).__name__} has the variable {variable.path} of type {variable.dtype}, which cannot "
                "be averaged over devices: a model takes its random numbers from `eps` and `u` (keras.layers.Dropout "
                "and the like draw their own)"
            )
    return variables


@contextmanager
def state_updates(variables: Sequence[Any], values: Sequence[Any]) -> Iterator[list[Any]]:
    """Lets a model read other values of its state in this context, and collects what it assigns.

    Args:
        variables: the model's, see `state_variables`.
        values: to be read, one for each variable.

    Yields:
        A list, which holds the new value of each variable when the context is left.
    """
    updates: list[Any] = []
    if not variables:
        yield updates
        return
    scope = keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)))
    with scope:
        yield updates
        updates.extend(scope.get_current_value(variable) for variable in variables)
