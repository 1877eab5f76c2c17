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
        rate, t = tf.constant(self.peak), tf.cast(step, tf.float32)
        if self.warmup:
            rate *= tf.minimum(1.0, (t + 1.0) / self.warmup)
        if self.total:
            share = tf.clip_by_value((t - self.warmup) / max(1, self.total - self.warmup), 0.0, 1.0)
            rate *= 0.5 * (1.0 + tf.cos(math.pi * share))
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
        """The scalars that scale update number `step`, counted from 0; with all of them 0 no weight changes."""
        ...

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """The new weight, and the new slots."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1, in the form of the end of section 2), and AdamW.

    m' = beta_1 m + (1 - beta_1) g;  v' = beta_2 v + (1 - beta_2) g^2;
    p' = p - rate_t m' / (sqrt(v') + epsilon),  rate_t = rate(t) sqrt(1 - beta_2^t) / (1 - beta_1^t).

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
        """rate_t, and what a kernel shrinks by where it decays."""
        t, rate = tf.cast(step + 1, tf.float32), self.schedule(step)
        corrected = rate * tf.sqrt(1.0 - tf.pow(BETA_2, t)) / (1.0 - tf.pow(BETA_1, t))
        return (corrected, rate * self.weight_decay) if self.weight_decay else (corrected,)

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """The new weight, m and v."""
        m, v = slots
        m = BETA_1 * m + (1.0 - BETA_1) * gradient
        v = BETA_2 * v + (1.0 - BETA_2) * tf.square(gradient)
        moved = weight - rates[0] * m / (tf.sqrt(v) + EPSILON)
        if self.weight_decay and weight.shape.rank > 1:
            moved -= rates[1] * weight
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
        """rate(t) / (1 - beta_1^t)."""
        return (self.schedule(step) / (1.0 - tf.pow(BETA_1, tf.cast(step + 1, tf.float32))),)

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """The new weight, m and u."""
        m, u = slots
        m = BETA_1 * m + (1.0 - BETA_1) * gradient
        u = tf.maximum(BETA_2 * u, tf.abs(gradient))
        return weight - rates[0] * m / (u + EPSILON), m, u


@dataclass(frozen=True)
class Averaged:
    """An optimizer that also keeps an exponential moving average of the weights: a' = decay a + (1 - decay) p'.

    It starts at 0, and is divided by `mass` where it is used, so that the first weights do not weigh more than others
    (as Adam corrects its moments).
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
        """The inner optimizer's."""
        return self.inner.rates(step)

    def update(self, rates: tuple[Any, ...], weight: Any, gradient: Any, *slots: Any) -> tuple[Any, ...]:
        """The new weight, the inner optimizer's slots, and the average."""
        *own, average = slots
        weight, *own = self.inner.update(rates, weight, gradient, *own)
        return weight, *own, self.decay * average + (1.0 - self.decay) * weight


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
