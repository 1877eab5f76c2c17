"""Gradients of a model's weights, for models that declare products as well as for those that do not."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.errors import ModelError
from vaedist.models.model import Model
from vaedist.models.products import Factors, products_seen


class WeightGradients:
    """Takes gradients with respect to a model's trainable variables.

    Args:
        model: the model.

    Attributes:
        kernels: numbers of the weights whose gradients may be taken as `Factors`.
        supports: where a kernel may be nonzero, [in, out], boolean, by number, for those that are restricted; entries
            outside must be 0, and their gradients are not masked.

    Raises:
        ModelError: two variables of the model have the same path, by which checkpoints tell them apart.
    """

    def __init__(self, model: Model) -> None:
        counts = Counter(variable.path for variable in model.variables)
        if twice := [path for path, count in counts.items() if count > 1]:
            raise ModelError(
                f"model {type(model).__name__} has two variables with the path {twice[0]}: each of its layers needs a "
                "name of its own"
            )
        self._paths = [variable.path for variable in model.trainable_variables]
        declared = {self._paths.index(product.kernel.path): product for product in model.products}
        self.kernels: tuple[int, ...] = tuple(declared)
        self.supports: dict[int, np.ndarray] = {
            i: product.mask for i, product in declared.items() if product.mask is not None
        }

    def __call__(
        self, loss: Callable[[], tuple[Any, Any]], weights: Sequence[Any], *,
        factored: Collection[int] = (), kernel_first: bool = False,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        """Returns the gradient of each weight, and what the function returned beside the loss.

        Args:
            loss: computes the loss, and something else.
            weights: the variables to differentiate with respect to, one for each trainable variable of the model.
            factored: numbers of the kernels whose gradients are returned as `Factors`.
            kernel_first: see `kernel_first_product`; only in programs that XLA compiles.
        """
        with tf.GradientTape() as tape, products_seen(kernel_first=kernel_first) as seen:
            value, more = loss()
        products = {i: seen[self._paths[i]] for i in factored}
        sources = [products[i].y if i in products else weight for i, weight in enumerate(weights)]
        gradients = tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for i, product in products.items():
            gradients[i] = Factors(product.x, gradients[i])
        return gradients, more
