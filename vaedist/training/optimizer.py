"""Optimizers as pure functions of tensors, so that the compiler fuses each into one pass over the weights."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from vaedist.config import TrainingSection

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each update: a linear warm-up to the peak, then constant, or half a cosine down to 0.

    rate(t) = peak min(1, (t + 1) / warmup) c(t), with c(t) = (1 + cos(pi (t - warmup) / (total - warmup))) / 2 from
    the end of the warm-up on, where `total` is given, and 1 otherwise (Loshchilov and Hutter 2017, without restarts).
    It is computed as c(t) = sin^2(pi / 2 (total - t) / (total - warmup)), where nothing cancels towards the end.

    Args:
        peak: the highest rate.
        warmup: updates until it is reached.
        total: updates until the cosine is at 0; 0 keeps the rate constant.
    """

    peak: float
    warmup: int = 0
    total: int = 0

    def __call__(self, step: Any) -> Any:
        """The rate of update number `step`, counted from 0, a scalar float32 tensor."""
        rate, t = tf.constant(self.peak), tf.cast(step, tf.int64)  # float32 does not count beyond 2^24
        if self.warmup:
            rate *= tf.minimum(1.0, tf.cast(t + 1, tf.float32) / self.warmup)
        if self.total:
            left = tf.cast(self.total - t, tf.float32) / max(1, self.total - self.warmup)
            rate *= tf.square(tf.sin(0.5 * math.pi * tf.clip_by_value(left, 0.0, 1.0)))
        return rate


class Optimizer(Protocol):
    """How a weight changes by its gradient.

    `slots` names what is kept of each weight from update to update, shaped like it and 0 at first.
    """

    @property
    def schedule(self) -> Schedule:
        """The learning rate."""
        ...

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of what is kept of each weight."""
        ...

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns the scalars of update number `step`, counted from 0, float32.

        With all of them 0, and a gradient of 0, neither the weight nor the slots change.
        """
        ...

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """The new weight, and the new slots."""
        ...


def decayed(beta: float, step: Any) -> Any:
    """Returns 1 - beta^(step + 1), by which moments are corrected at update number `step`, a scalar float32 tensor.

    In float32 the difference itself would lose 1e-5 of its value where beta^(step + 1) is near 1.
    """
    return -tf.math.expm1(tf.cast(step + 1, tf.float32) * math.log(beta))


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1, in the form of the end of section 2), and AdamW.

    m' = beta_1 m + (1 - beta_1) g;  v' = beta_2 v + (1 - beta_2) g^2;
    p' = p - rate_t m' / (sqrt(v') + epsilon),  rate_t = rate(t) sqrt(1 - beta_2^t) / (1 - beta_1^t).

    The moments are computed as m' = m + (1 - beta_1) (g - m): beta_2 rounded to float32 and 1 - beta_2 rounded to
    float32 add up to 1.000000013, which would make v too large by 1.3e-5.

    With a weight decay d, each kernel also shrinks by rate(t) d p, apart from its gradient (Loshchilov and Hutter
    2019, algorithm 2); biases do not.
    """

    schedule: Schedule
    weight_decay: float = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """Both moments."""
        return "m", "v"

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns rate_t, 1 - beta_1, 1 - beta_2, and rate(t) d where kernels decay."""
        rate = self.schedule(step)
        corrected = rate * tf.sqrt(decayed(BETA_2, step)) / decayed(BETA_1, step)
        scalars = (corrected, tf.constant(1.0 - BETA_1), tf.constant(1.0 - BETA_2))
        return (*scalars, rate * self.weight_decay) if self.weight_decay else scalars

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight, m and v."""
        (m, v), (rate, first, second, *decay) = slots, rates
        m += first * (gradient - m)
        v += second * (tf.square(gradient) - v)
        moved = weight - rate * m / (tf.sqrt(v) + EPSILON)
        if decay and weight.shape.rank > 1:
            moved -= decay[0] * weight
        return moved, m, v


@dataclass(frozen=True)
class Adamax:
    """Adam by the infinity norm (Kingma and Ba 2015, algorithm 2); Kingma et al. 2016 trained with it.

    m' = beta_1 m + (1 - beta_1) g;  u' = max(beta_2 u, |g|);  p' = p - rate(t) / (1 - beta_1^t) m' / (u' + epsilon).
    """

    schedule: Schedule

    @property
    def slots(self) -> tuple[str, ...]:
        """The first moment, and the norm."""
        return "m", "u"

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns rate(t) / (1 - beta_1^t), 1 - beta_1 and 1 - beta_2."""
        rate = self.schedule(step) / decayed(BETA_1, step)
        return rate, tf.constant(1.0 - BETA_1), tf.constant(1.0 - BETA_2)

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight, m and u."""
        (m, u), (rate, first, second) = slots, rates
        m += first * (gradient - m)
        u = tf.maximum((1.0 - second) * u, tf.abs(gradient))
        return weight - rate * m / (u + EPSILON), m, u


@dataclass(frozen=True)
class Averaged:
    """An optimizer that also keeps an exponential moving average of the weights: a' = decay a + (1 - decay) p'.

    It starts at 0, and is divided by `mass` where it is used, so that the first weights do not weigh more than others
    (as Adam corrects its moments). Computed as a + (1 - decay) (p' - a), as those are: with a decay of 0.99999, the two
    roundings would make it 0.14 % too small.
    """

    inner: Optimizer
    decay: float

    @property
    def schedule(self) -> Schedule:
        """The inner optimizer's."""
        return self.inner.schedule

    @property
    def slots(self) -> tuple[str, ...]:
        """The inner optimizer's, and the average."""
        return (*self.inner.slots, "average")

    def rates(self, step: Any) -> tuple[Any, ...]:
        """Returns the inner optimizer's, and 1 - decay."""
        return (*self.inner.rates(step), tf.constant(1.0 - self.decay))

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the new weight, the inner optimizer's slots, and the average."""
        (*own, average), (*scalars, moved) = slots, rates
        weight, *own = self.inner.update(tuple(scalars), weight, gradient, *own)
        return weight, *own, average + moved * (weight - average)


def mass(decay: float, step: int) -> float:
    """What the weights of an average after `step` updates add up to, 1 - decay^step."""
    return -math.expm1(step * math.log(decay))


def make_optimizer(training: TrainingSection, total_steps: int) -> Optimizer:
    """The optimizer of an experiment that makes `total_steps` updates in all."""
    schedule = Schedule(
        training.learning_rate, training.warmup_steps, total_steps if training.schedule == "cosine" else 0
    )
    optimizer: Optimizer = Adamax(schedule) if training.optimizer == "adamax" else Adam(schedule, training.weight_decay)
    return Averaged(optimizer, training.ema_decay) if training.ema_decay else optimizer
