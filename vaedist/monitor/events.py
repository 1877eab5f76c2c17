"""Events that the first training worker sends to the terminal: frozen records of builtin types, which are pickled.

Epochs count from 1. A step is the number of updates made so far in the whole run. elbo, reconstruction and kl are in
nats per image, with elbo = reconstruction - kl.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Waiting:
    """Training has not started; `text` states the reason for waiting."""

    text: str


@dataclass(frozen=True)
class Started:
    """The workers are ready for the first step; sent again after each restart of the workers.

    Attributes:
        run: name of the run.
        epochs: total number of epochs.
        steps_per_epoch: updates per epoch.
        start_step: step of the checkpoint from which the run is resumed; 0 in a new run.
        workers: number of worker processes.
        devices: number of GPUs or CPU devices over all workers.
        train_rows: number of training images.
        parameters: number of the model's parameters.
    """

    run: str
    epochs: int
    steps_per_epoch: int
    start_step: int
    workers: int
    devices: int
    train_rows: int
    parameters: int


@dataclass(frozen=True)
class Progress:
    """Means over the training steps since the last event of this type.

    Attributes:
        epoch: current epoch.
        step: number of updates made.
        elbo: evidence lower bound, nats per image.
        reconstruction: E log p(x|z), nats per image.
        kl: KL(q(z|x) || p(z)), nats per image.
        images_per_second: throughput over all workers.
        input_wait: fraction of the time spent waiting for images, 0 to 1.
    """

    epoch: int
    step: int
    elbo: float
    reconstruction: float
    kl: float
    images_per_second: float
    input_wait: float


@dataclass(frozen=True)
class Tested:
    """Means over all images of the scored split after an epoch.

    Attributes:
        epoch, step: position in the run.
        elbo, reconstruction, kl: see `Progress`.
        best: True if no earlier ELBO of the run was higher.
        bits_per_dim: upper bound from the ELBO; None if the likelihood has no bits/dim.
        importance_bound: importance-weighted bound, nats per image; None if it is not computed.
        split: "validation" if the data set has such a split, else "test".
    """

    epoch: int
    step: int
    elbo: float
    reconstruction: float
    kl: float
    best: bool
    bits_per_dim: float | None = None
    importance_bound: float | None = None
    split: str = "test"


@dataclass(frozen=True)
class Saved:
    """A checkpoint was committed.

    Attributes:
        epoch, step: position in the run.
        path: path of the checkpoint, or its URI if the run is on an object store.
        asked: True if the checkpoint was requested, False if it was written on schedule.
    """

    epoch: int
    step: int
    path: str
    asked: bool = False


@dataclass(frozen=True)
class Notice:
    """A one-line message for the user, for example about a damaged checkpoint that was skipped."""

    text: str


@dataclass(frozen=True)
class Finished:
    """All epochs are completed; `elbo` is the last ELBO of `split`, nats per image."""

    epoch: int
    step: int
    elbo: float
    split: str = "test"


Event: TypeAlias = Waiting | Started | Progress | Tested | Saved | Notice | Finished
