"""Adam as a pure function of tensors, so that the compiler fuses it into one pass over the weights."""

from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1, in the form of the end of section 2).

    m' = beta_1 m + (1 - beta_1) g;  v' = beta_2 v + (1 - beta_2) g^2;
    p' = p - rate_t m' / (sqrt(v') + epsilon),  rate_t = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t).

    The moments of each weight are kept in its `slots`: m and v, zero at first.
    """

    learning_rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def rate(self, step: Any) -> Any:
        """rate_t of update number `step`, counted from 0."""
        t = tf.cast(step + 1, tf.float32)
        return self.learning_rate * tf.sqrt(1.0 - tf.pow(self.beta_2, t)) / (1.0 - tf.pow(self.beta_1, t))

    def update(self, rate: Any, weight: Any, gradient: Any, m: Any, v: Any) -> tuple[Any, Any, Any]:
        """The new weight, m and v."""
        m = self.beta_1 * m + (1.0 - self.beta_1) * gradient
        v = self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient)
        return weight - rate * m / (tf.sqrt(v) + self.epsilon), m, v
