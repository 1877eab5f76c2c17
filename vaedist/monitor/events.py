"""What the first training worker tells the terminal: small frozen records of builtin types, to be pickled.

Everywhere an `epoch` counts from 1, a `step` is the number of updates made so far in the whole run, and elbo,
reconstruction and kl are in nats an image, with elbo = reconstruction - kl.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Waiting:
    """Training has not begun; `text` says what is being waited for."""

    text: str


@dataclass(frozen=True)
class Started:
    """The workers are up and the first step is next; comes again when failed workers were started again.

    Attributes:
        run: the run's name.
        epochs: passes over the training images that the run makes.
        steps_per_epoch: updates in one pass.
        start_step: updates made before, in the checkpoint that the run goes on from; 0 in a new run.
        workers: worker processes.
        devices: GPUs, or CPU devices, of all workers together.
        train_rows: training images.
        parameters: trained numbers of the model.
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
    """Means over the training steps since the last such record.

    Attributes:
        epoch: the pass being made.
        step: updates made.
        elbo: evidence lower bound, nats an image.
        reconstruction: E log p(x|z), nats an image.
        kl: KL(q(z|x) || p(z)), nats an image.
        images_per_second: over all workers.
        input_wait: share of the time, 0 to 1, that was spent waiting for images.
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
    """Means over all images of `split` after an epoch; `best` when no earlier ELBO of that split was higher.

    `bits_per_dim` is an upper bound from the ELBO; None where the likelihood gives none. `importance_bound` is the
    importance-weighted bound, nats an image; None where none is taken. `split` is "validation" where the data set has
    such a split, else "test".
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
    """A checkpoint was committed at `path`, which is a URI if the run is kept on a store.

    `asked` tells whether somebody had asked for it; others come by themselves.
    """

    epoch: int
    step: int
    path: str
    asked: bool = False


@dataclass(frozen=True)
class Notice:
    """One line that the user should see, such as a damaged checkpoint that was skipped."""

    text: str


@dataclass(frozen=True)
class Finished:
    """All epochs are done; `elbo` is the last ELBO of `split`, nats an image."""

    epoch: int
    step: int
    elbo: float
    split: str = "test"


Event: TypeAlias = Waiting | Started | Progress | Tested | Saved | Notice | Finished
