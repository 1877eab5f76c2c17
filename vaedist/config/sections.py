"""The sections of an experiment.

A default stands here and nowhere else; every key has a type, a range and a sentence.
"""

import math
from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vaedist.storage.uri import fault_of

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def _known_kind(place: str) -> str:
    if fault := fault_of(place):
        raise ValueError(fault)
    return place


Place = Annotated[str, AfterValidator(_known_kind)]  # a local path, or a pyarrow filesystem URI


MOST_WORKERS = 4096

EVALUATION_SAMPLES = 128  # of z for each image, as in table 1 of Kingma et al. 2016


def _workers(given: Any) -> Any:
    """A number of workers, or [fewest, most]; told as one fault, whichever of them was meant."""
    bounds = list(given) if isinstance(given, list | tuple) else [given, given]
    numbers = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    if not numbers or len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] <= MOST_WORKERS:
        raise ValueError(f"must be a number from 1 to {MOST_WORKERS}, or the fewest and the most, as in [1, 4]")
    return given if isinstance(given, int) else tuple(bounds)


Count = Annotated[int, Field(ge=1, le=MOST_WORKERS)]
Workers = Annotated[Count | tuple[Count, Count], BeforeValidator(_workers)]


FIRST_PORT, LAST_PORT = 1024, 65_535  # those below the first are the system's


def _ports(given: Any) -> Any:
    """No ports, or the first and the last."""
    bounds = list(given) if isinstance(given, list | tuple) else [given]
    numbers = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    in_range = numbers and len(bounds) == 2 and FIRST_PORT <= bounds[0] < bounds[1] <= LAST_PORT
    if bounds and not in_range:
        raise ValueError(f"must be the first and the last port, from {FIRST_PORT} to {LAST_PORT}, as in [20000, 20099]")
    return tuple(bounds)


def _networks(given: Any) -> Any:
    """Networks as texts; an address is a network of its own."""
    texts = isinstance(given, list | tuple) and all(isinstance(network, str) for network in given)
    try:
        for network in given if texts else [given]:
            ip_network(network if texts else "")
    except ValueError as error:
        reason = f": {error}" if texts else ""
        raise ValueError(f'must be networks, as in ["10.0.0.0/16", "fd00::/64"]{reason}') from None
    return tuple(given)


Ports = Annotated[tuple[int, ...], BeforeValidator(_ports)]
Networks = Annotated[tuple[str, ...], BeforeValidator(_networks)]


class Section(BaseModel):
    """A frozen table of an experiment; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _arrays_of_toml(cls, value: Any, info: ValidationInfo) -> Any:
        """Takes an array, a list, where a tuple is wanted, unless the field has a validator of its own for that."""
        field = cls.model_fields[str(info.field_name)]
        if not isinstance(value, list) or get_origin(field.annotation) is not tuple:
            return value
        return value if any(isinstance(each, BeforeValidator) for each in field.metadata) else tuple(value)


class RunSection(Section):
    """Where a run is kept."""

    name: str = Field(
        default="",
        pattern=r"^$|" + NAME_PATTERN,
        max_length=128,
        description="Name of the run's folder; empty takes the job file's name.",
    )
    folder: Place = Field(
        default="runs",
        min_length=1,
        description="Folder that holds the runs, or a pyarrow filesystem URI; every worker must reach it.",
    )


class DataSection(Section):
    """Which images are trained on."""

    path: Place = Field(
        default="data/cifar10",
        min_length=1,
        description="Data set made by `vaedist data prepare`: a folder or a pyarrow filesystem URI.",
    )
    verify: bool = Field(default=True, description="Check every shard's SHA-256 before the run starts.")
    binarize: Literal["none", "threshold", "dynamic", "fixed"] = Field(
        default="none",
        description="Make the pixels of grey images 0 or 1, for models that score binary pixels: 1 for those above "
        "half, or with the probability pixel / 255, drawn afresh in every epoch of training, or once for each image. "
        "Evaluation draws once for each image either way, by a seed that is not the run's.",
    )


class ObjectiveSection(Section):
    """What training maximises, where it is not the ELBO itself; the ELBO is logged beside it."""

    kl_warmup_epochs: float = Field(
        default=0.0, ge=0, description="Epochs in which the weight of the KL rises from 0 to 1."
    )
    free_bits: float = Field(
        default=0.0, ge=0, description="Nats of KL that each group of latents may use for free (Kingma et al. 2016)."
    )
    free_bits_group: int = Field(
        default=1,
        ge=0,
        description="Latents, or channels, in a group; the last may be smaller. 0 makes one group of each layer.",
    )
    samples: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Samples of the latents for each image, K: above 1, training maximises the importance-weighted "
        "bound L_K (Burda et al. 2016), whose single term may have warm-up and free bits too.",
    )
    gradient: Literal["plain", "dreg"] = Field(
        default="plain",
        description="Estimator of the gradient of L_K: plain, or doubly reparameterized with respect to the posterior "
        "(dreg; Tucker et al. 2019), for models of one stochastic layer, without free bits.",
    )

    @model_validator(mode="after")
    def _dreg_of_samples(self) -> Self:
        if self.gradient == "dreg" and self.samples == 1:
            raise ValueError("gradient = 'dreg' is for samples above 1; it must be 'plain' for samples = 1")
        if self.gradient == "dreg" and self.free_bits:
            raise ValueError(
                f"gradient = 'dreg' is biased with free bits; free_bits = {self.free_bits:g} must be 0 for it"
            )
        return self


class TrainingSection(Section):
    """How the model is fitted."""

    epochs: int = Field(default=100, ge=1, description="Passes over the training images.")
    global_batch: int = Field(default=32, ge=1, description="Images in one step, over all workers and devices.")
    optimizer: Literal["adam", "adamw", "adamax"] = Field(default="adam", description="How gradients become updates.")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="The optimizer's step size, at its highest.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate after the warm-up: kept, or down to 0 at the end of the epochs."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps in which the learning rate rises from 0.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Of the kernels, for adamw.")
    clip_norm: float = Field(
        default=0.0, ge=0, description="Scale gradients down to this norm, of all weights together; 0 does not."
    )
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Parts in which a device takes its images of a batch, one after another, before their gradients, "
        "added up, are summed over all devices for one update: a large batch then needs the memory of a small one. "
        "The results differ only by rounding.",
    )
    reduce_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Type in which workers and devices sum their gradients. bfloat16, for CPUs only, sends half as "
        "much, and rounds to 8 bits at every addition; what a lone device does is the same.",
    )
    tensor_float_32: bool = Field(
        default=False,
        description="Let GPUs round the factors of float32 products to 10 bits of mantissa (TF32): several times "
        "faster products, and other results than on CPUs. Without it float32 is float32 everywhere.",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Keep an exponential moving average of the weights, and test and sample with it; 0 does not.",
    )
    steps_per_call: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Steps that one compiled call takes, whose images are held in memory three times over; "
        "the results do not depend on it.",
    )
    eval_batch: int = Field(
        default=256, ge=1, description="Images in one step of the pass after each epoch, over all devices."
    )

    @model_validator(mode="after")
    def _decay_of_adamw(self) -> Self:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay is for optimizer = 'adamw'; it must be 0 for {self.optimizer!r}")
        return self

    @model_validator(mode="after")
    def _parts_with_images(self) -> Self:
        if self.accumulation_steps > self.global_batch:
            raise ValueError(
                f"accumulation_steps = {self.accumulation_steps} parts of global_batch = {self.global_batch} images "
                "are more parts than images"
            )
        return self


class ScalingSection(Section):
    """What Ray Train starts."""

    workers: Workers = Field(
        default=1,
        description="Worker processes, each with its own share of the data; [fewest, most] takes as many as the "
        "cluster has room for, and goes on with more or fewer when that changes. The results do not depend on it.",
    )
    resize_seconds: float = Field(
        default=60.0, ge=1, le=86_400, description="Between two looks whether there is room for more workers."
    )
    gpus_per_worker: float = Field(
        default=0, ge=0, le=64, description="GPUs of one worker, or the part of one; 0 trains on its CPUs."
    )
    cpus_per_worker: float = Field(
        default=0,
        ge=0,
        le=1024,
        description="CPUs of one worker, or the part of one; 0 divides the cluster's among the workers.",
    )
    logical_devices: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Devices that a CPU worker's processor is split into (to try what several GPUs will do).",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="Times that a failed group of workers is started again within failure_window_hours, and without a "
        "new checkpoint in between. A machine whose end was announced is no failure.",
    )
    failure_window_hours: float = Field(
        default=1.0, ge=0, le=8784, description="Hours for which a failure counts; 0 counts all of a run."
    )
    autoscaling: bool = Field(
        default=False,
        description="The cluster adds nodes on demand: wait for them instead of "
        "refusing a job that is larger than the cluster is now.",
    )

    ports: Ports = Field(
        default=(),
        description="First and last port that TensorFlow's servers may take, one for each worker of several, for a "
        "firewall to name; [] takes any free ones. A port that a worker has left may count as taken for a minute, so "
        "name twice as many as a machine has workers.",
    )
    peer_networks: Networks = Field(
        default=(),
        description="Networks that may reach TensorFlow's servers besides the addresses of the run's machines, for "
        "machines that have several; whoever is in them reads files and runs operations as the worker's user.",
    )

    @model_validator(mode="after")
    def _devices_of_one_kind(self) -> Self:
        if self.gpus_per_worker and self.logical_devices > 1:
            raise ValueError("logical_devices splits a CPU; it must be 1 when gpus_per_worker is set")
        return self

    @model_validator(mode="after")
    def _a_gpu_of_its_own(self) -> Self:
        if 0 < self.gpus_per_worker < 1 and self.bounds[1] > 1:
            raise ValueError(
                f"gpus_per_worker = {self.gpus_per_worker:g} is for workers = 1: workers of one run cannot share a "
                "GPU (NCCL takes one rank a GPU)"
            )
        return self

    @model_validator(mode="after")
    def _whole_or_part_of_one(self) -> Self:
        for key in ("gpus_per_worker", "cpus_per_worker"):
            value = getattr(self, key)
            if value > 1 and value != int(value):
                raise ValueError(f"{key} = {value}: must be whole, or less than 1")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most workers; the same where their number is fixed."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows what the cluster has."""
        fewest, most = self.bounds
        return fewest < most

    @property
    def devices_per_worker(self) -> int:
        """Devices that one worker computes on: GPUs, or parts of its CPU."""
        return max(math.ceil(self.gpus_per_worker), self.logical_devices)


class CheckpointSection(Section):
    """When checkpoints are written, and how many stay."""

    every_steps: int = Field(
        default=1000, ge=0, description="Steps between checkpoints; 0 writes at the end of epochs only."
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="Newest checkpoints to keep; the best by validation ELBO, or by test ELBO where the data has no "
        "validation split, stays besides.",
    )


class MonitorSection(Section):
    """What is logged, and how often."""

    log_every: int = Field(default=50, ge=1, description="Steps between two rows of training metrics.")
    pictures_every: int = Field(default=1, ge=0, description="Epochs between pictures; 0 makes them at the end only.")
    importance_samples: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Samples of the importance-weighted bound that is taken after each epoch of the validation images, "
        "or of the test images where there are none; 0 takes none.",
    )
    pictures: int = Field(
        default=32, ge=1, le=256, description="Images in the grid of reconstructions; twice that in samples."
    )
