"""Variables of a model that are not trained, such as the moving statistics of normalisation layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from vaedist.errors import ModelError
from vaedist.models.model import Model


def state_variables(model: Model) -> list[Any]:
    """Returns the model's variables that are not trained; all of them hold floating-point numbers.

    Raises:
        ModelError: one is of another type, as the state of a random number generator is.
    """
    variables = list(model.non_trainable_variables)
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
