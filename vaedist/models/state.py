"""State of a model: variables that a training step assigns without training them, such as moving statistics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from vaedist.errors import ModelError
from vaedist.models.model import Model


def state_variables(model: Model, score: Callable[[], Any]) -> list[Any]:
    """Returns the variables that a training step assigns without training them; all have a floating-point dtype.

    Other non-trainable variables, such as those of a frozen layer, are constants.

    Args:
        model: the model.
        score: function that scores a batch as a training step does; called once, to find the variables it assigns.

    Raises:
        ModelError: a variable has another dtype, such as the state of a random number generator.
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
                "be averaged over devices: a model must take its random numbers from `eps` and `u`, unlike "
                "keras.layers.Dropout"
            )
    return variables


@contextmanager
def state_updates(variables: Sequence[Any], values: Sequence[Any]) -> Iterator[list[Any]]:
    """Substitutes the values of a model's state in this context, and collects the values that the model assigns.

    Args:
        variables: state of the model, see `state_variables`.
        values: value of each variable in this context.

    Yields:
        A list that is filled with the new value of each variable at the end of the context.
    """
    updates: list[Any] = []
    if not variables:
        yield updates
        return
    scope = keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)))
    with scope:
        yield updates
        updates.extend(scope.get_current_value(variable) for variable in variables)
