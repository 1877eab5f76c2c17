"""Optimizers as pure functions of tensors, so that the compiler fuses each into one pass over the weights."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from vaedist.config import TrainingSection
from vaedist.training.schedule import Schedule, make_schedule

BETA_1, BETA_2 = 0.9, 0.999
EPSILON = TrainingSection.model_fields["epsilon"].default
AVERAGE = "average"  # name of the slot of moving averages


class Optimizer(Protocol):
    """Update formula of a weight.

    `slots` are an optimizer's variables for each weight, such as moments. They have the weight's shape, and start at 0.
    """

    @property
    def schedule(self) -> Schedule:
        """Learning rate schedule."""
        ...

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots of each weight."""
        ...

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns the scalars of update number `step`, counted from 0, float32.

        If all of them are 0, and the gradient is 0, neither the weight nor the slots change.
        """
        ...

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight and the new slots."""
        ...


def bias_correction(beta: float, step: Any) -> Any:
    """Returns 1 - beta^(step + 1), the bias correction of moments at update number `step`, a scalar float32 tensor.

    It uses expm1: subtracting in float32 has a relative error of 1e-5 where beta^(step + 1) is close to 1.
    """
    return -tf.math.expm1(tf.cast(step + 1, tf.float32) * math.log(beta))


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1, as reordered at the end of section 2), and AdamW.

    m' = beta_1 m + (1 - beta_1) g;  v' = beta_2 v + (1 - beta_2) g^2;
    p' = p - rate_t m' / (sqrt(v') + epsilon),  rate_t = rate(t) sqrt(1 - beta_2^t) / (1 - beta_1^t).

    The moments are computed as m' = m + (1 - beta_1) (g - m): beta_2 rounded to float32 and 1 - beta_2 rounded to
    float32 add up to 1.000000013, which would make v too large by a factor of 1 + 1.3e-5.

    A weight decay d also subtracts rate(t) d p from each kernel, decoupled from its gradient (Loshchilov and Hutter
    2019, algorithm 2), but not from biases.
    """

    schedule: Schedule
    weight_decay: float = 0.0
    epsilon: float = EPSILON

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the first and second moments."""
        return "m", "v"

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns rate_t, 1 - beta_1, 1 - beta_2, and with weight decay rate(t) d."""
        rate = self.schedule(step)
        corrected = rate * tf.sqrt(bias_correction(BETA_2, step)) / bias_correction(BETA_1, step)
        scalars = (corrected, tf.constant(1.0 - BETA_1), tf.constant(1.0 - BETA_2))
        return (*scalars, rate * self.weight_decay) if self.weight_decay else scalars

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight, m and v."""
        (m, v), (rate, first, second, *decay) = slots, rates
        m += first * (gradient - m)
        v += second * (tf.square(gradient) - v)
        moved = weight - rate * m / (tf.sqrt(v) + self.epsilon)
        if decay and weight.shape.rank > 1:
            moved -= decay[0] * weight
        return moved, m, v


@dataclass(frozen=True)
class Adamax:
    """Adamax: Adam based on the infinity norm (Kingma and Ba 2015, algorithm 2), as used by Kingma et al. 2016.

    m' = beta_1 m + (1 - beta_1) g;  u' = max(beta_2 u, |g|);  p' = p - rate(t) / (1 - beta_1^t) m' / (u' + epsilon).
    """

    schedule: Schedule
    epsilon: float = EPSILON

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the first moment and of the norm."""
        return "m", "u"

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns rate(t) / (1 - beta_1^t), 1 - beta_1 and 1 - beta_2."""
        rate = self.schedule(step) / bias_correction(BETA_1, step)
        return rate, tf.constant(1.0 - BETA_1), tf.constant(1.0 - BETA_2)

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight, m and u."""
        (m, u), (rate, first, second) = slots, rates
        m += first * (gradient - m)
        u = tf.maximum((1.0 - second) * u, tf.abs(gradient))
        return weight - rate * m / (u + self.epsilon), m, u


@dataclass(frozen=True)
class Averaged:
    """Optimizer that also keeps an exponential moving average (EMA) of the weights: a' = decay a + (1 - decay) p'.

    The average starts at 0. Where it is used it is divided by `mass`, the same bias correction as that of Adam's
    moments. It is computed as a + (1 - decay) (p' - a): with a decay of 0.99999, the rounding of decay and 1 - decay
    would otherwise make it 0.14 % too small.
    """

    inner: Optimizer
    decay: float

    @property
    def schedule(self) -> Schedule:
        """Learning rate schedule of the inner optimizer."""
        return self.inner.schedule

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the inner optimizer's slots, and of the average."""
        return (*self.inner.slots, AVERAGE)

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns the inner optimizer's scalars, and 1 - decay."""
        return (*self.inner.rates(step), tf.constant(1.0 - self.decay))

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight, the inner optimizer's slots, and the average."""
        (*own, average), (*scalars, moved) = slots, rates
        weight, *own = self.inner.update(tuple(scalars), weight, gradient, *own)
        return weight, *own, moved_average(average, weight, moved)


def moved_average(average: Any, value: Any, rate: Any) -> Any:
    """Returns a moving average after a new value, a + rate (value - a)."""
    return average + rate * (value - average)


def mass(decay: float, step: int) -> float:
    """Returns 1 - decay^step, the sum of the coefficients of a moving average after `step` updates."""
    return -math.expm1(step * math.log(decay))


def make_optimizer(training: TrainingSection, steps_per_epoch: int) -> Optimizer:
    """Returns the optimizer of an experiment with `steps_per_epoch` updates in an epoch."""
    schedule = make_schedule(training, steps_per_epoch)
    optimizer: Optimizer
    if training.optimizer == "adamax":
        optimizer = Adamax(schedule, training.epsilon)
    else:
        optimizer = Adam(schedule, training.weight_decay, training.epsilon)
    return Averaged(optimizer, training.ema_decay) if training.ema_decay else optimizer
