"""Learning rate schedules, functions of the index of the update alone."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import tensorflow as tf

from vaedist.config import TrainingSection


class Decay(Protocol):
    """Factor of the learning rate as a function of the update."""

    def __call__(self, t: Any) -> Any:
        """Returns the factor of update number `t`, counted from 0, int64; shaped like t, float32."""
        ...


@dataclass(frozen=True)
class Schedule:
    """Learning rate schedule: rate(t) = peak min(1, (t + 1) / warmup) c(t).

    Args:
        peak: the highest rate.
        warmup: updates of the linear warm-up.
        decay: the factor c(t); None keeps the rate constant after the warm-up.
    """

    peak: float
    warmup: int = 0
    decay: Decay | None = None

    def __call__(self, step: Any) -> Any:
        """Returns the rate of update number `step`, counted from 0, a scalar float32 tensor."""
        rate, t = tf.constant(self.peak), tf.cast(step, tf.int64)  # float32 cannot count beyond 2^24
        if self.warmup:
            rate *= tf.minimum(1.0, tf.cast(t + 1, tf.float32) / self.warmup)
        return rate if self.decay is None else rate * self.decay(t)


@dataclass(frozen=True)
class Fall:
    """Decay from 1 to f over the updates from `start` to `end`; l falls linearly from 1 to 0 between them.

    - cosine: c = f + (1 - f) (1 + cos(pi (1 - l))) / 2 (Loshchilov and Hutter 2017, without restarts), computed with
      sin^2(pi l / 2) for the last factor, which avoids cancellation near the end;
    - linear: c = f + (1 - f) l;
    - exponential: c = f^(1 - l).

    Args:
        shape: "cosine", "linear" or "exponential".
        start: last update with the factor 1, which is the end of the warm-up.
        end: first update with the factor f, which is the number of updates of the run.
        final: f.
    """

    shape: Literal["cosine", "linear", "exponential"]
    start: int
    end: int
    final: float = 0.0

    def __call__(self, t: Any) -> Any:
        """Returns the factor of update number `t`."""
        left = tf.clip_by_value(tf.cast(self.end - t, tf.float32) / max(1, self.end - self.start), 0.0, 1.0)
        if self.shape == "exponential":
            return tf.exp(math.log(self.final) * (1.0 - left))
        factor = tf.square(tf.sin(0.5 * math.pi * left)) if self.shape == "cosine" else left
        return self.final + (1.0 - self.final) * factor if self.final else factor


@dataclass(frozen=True)
class Steps:
    """Piecewise constant decay: 1, then `factors[k]` from update `boundaries[k]` on."""

    boundaries: tuple[int, ...]
    factors: tuple[float, ...]

    def __call__(self, t: Any) -> Any:
        """Returns the factor of update number `t`."""
        passed = tf.cast(t[..., None] >= tf.constant(self.boundaries, tf.int64), tf.int32)
        return tf.gather(tf.constant((1.0, *self.factors)), tf.reduce_sum(passed, axis=-1))


def make_schedule(training: TrainingSection, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate schedule of an experiment with `steps_per_epoch` updates in an epoch."""
    decay: Decay | None = None
    if training.schedule == "steps":
        boundaries = tuple(round(each * steps_per_epoch) for each in training.decay_epochs)
        decay = Steps(boundaries, training.decay_factors)
    elif training.schedule != "constant":
        decay = Fall(training.schedule, training.warmup_steps, training.epochs * steps_per_epoch, training.decay_to)
    return Schedule(training.learning_rate, training.warmup_steps, decay)
