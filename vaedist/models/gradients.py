"""Gradients with respect to a model's weights, optionally as the factors of a declared product."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.errors import ModelError
from vaedist.models.model import Model
from vaedist.models.products import Factors, products_seen


class WeightGradients:
    """Computes gradients with respect to a model's trainable variables.

    Args:
        model: the model.

    Attributes:
        kernels: indices of the variables whose gradients can be computed as `Factors`.
        supports: boolean mask [in, out] of each masked kernel, by index. Masked entries must be 0; the gradients
            returned for them are not masked.

    Raises:
        ModelError: two variables of the model have the same path, which is their name in checkpoints.
    """

    def __init__(self, model: Model) -> None:
        counts = Counter(variable.path for variable in model.variables)
        if twice := [path for path, count in counts.items() if count > 1]:
            raise ModelError(
                f"model {type(model).__name__} has two variables with the path {twice[0]}: each layer must have a "
                "unique name"
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
        """Returns the gradient with respect to each weight, and the second result of `loss`.

        Args:
            loss: function that returns the loss and an arbitrary second result.
            weights: tensors or variables to differentiate with respect to, one per trainable variable of the model.
            factored: indices of the kernels whose gradients are returned as `Factors`.
            kernel_first: use `kernel_first_product`; requires compilation by XLA.
        """
        with tf.GradientTape() as tape, products_seen(kernel_first=kernel_first) as seen:
            value, more = loss()
        products = {i: seen[self._paths[i]] for i in factored}
        sources = [products[i].y if i in products else weight for i, weight in enumerate(weights)]
        gradients = tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for i, product in products.items():
            gradients[i] = Factors(product.x, gradients[i])
        return gradients, more
