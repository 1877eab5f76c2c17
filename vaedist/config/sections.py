"""The sections of an experiment.

Each key has a type, a default, which is stated nowhere else, a range and a description.
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


def _valid_location(location: str) -> str:
    if fault := fault_of(location):
        raise ValueError(fault)
    return location


Location = Annotated[str, AfterValidator(_valid_location)]  # a local path, or a pyarrow filesystem URI


MOST_WORKERS = 4096

EVALUATION_SAMPLES = 128  # samples of z per image, as in table 1 of Kingma et al. 2016


def _workers(given: Any) -> Any:
    """Validates a number of workers, or [minimum, maximum], with one error message for both."""
    bounds = list(given) if isinstance(given, list | tuple) else [given, given]
    numbers = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    if not numbers or len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] <= MOST_WORKERS:
        raise ValueError(f"must be a number from 1 to {MOST_WORKERS}, or the fewest and the most, as in [1, 4]")
    return given if isinstance(given, int) else tuple(bounds)


Count = Annotated[int, Field(ge=1, le=MOST_WORKERS)]
Workers = Annotated[Count | tuple[Count, Count], BeforeValidator(_workers)]


FIRST_PORT, LAST_PORT = 1024, 65_535  # lower ports are reserved for the system


def _ports(given: Any) -> Any:
    """Validates an empty array, or the first and the last port."""
    bounds = list(given) if isinstance(given, list | tuple) else [given]
    numbers = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    in_range = numbers and len(bounds) == 2 and FIRST_PORT <= bounds[0] < bounds[1] <= LAST_PORT
    if bounds and not in_range:
        raise ValueError(f"must be the first and the last port, from {FIRST_PORT} to {LAST_PORT}, as in [20000, 20099]")
    return tuple(bounds)


def _networks(given: Any) -> Any:
    """Validates networks in text form; a single address is a network, too."""
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
        """Converts TOML arrays, which are lists, for fields of tuples, unless the field has its own validator."""
        field = cls.model_fields[str(info.field_name)]
        if not isinstance(value, list) or get_origin(field.annotation) is not tuple:
            return value
        return value if any(isinstance(each, BeforeValidator) for each in field.metadata) else tuple(value)


class RunSection(Section):
    """Name and location of a run."""

    name: str = Field(
        default="",
        pattern=r"^$|" + NAME_PATTERN,
        max_length=128,
        description="Name of the run's folder; empty takes the job file's name.",
    )
    folder: Location = Field(
        default="runs",
        min_length=1,
        description="Folder that holds the runs, or a pyarrow filesystem URI; all workers must have access to it.",
    )


class DataSection(Section):
    """Data set and preprocessing of its pixels."""

    path: Location = Field(
        default="data/cifar10",
        min_length=1,
        description="Data set made by `vaedist data prepare`: a folder or a pyarrow filesystem URI.",
    )
    verify: bool = Field(default=True, description="Check every shard's SHA-256 before the run starts.")
    binarize: Literal["none", "threshold", "dynamic", "fixed"] = Field(
        default="none",
        description="Binarise grey images, for models that score binary pixels: threshold sets pixels above one half "
        "to 1; dynamic sets a pixel to 1 with probability pixel / 255, drawn anew in every training epoch; fixed draws "
        "once per image. Evaluation always draws once per image, by a seed that is independent of the run's.",
    )


class ObjectiveSection(Section):
    """Training objective. The ELBO is always logged, even if another objective is maximised."""

    kl_warmup_epochs: float = Field(
        default=0.0, ge=0, description="Epochs over which the weight of the KL term rises from 0 to 1."
    )
    free_bits: float = Field(
        default=0.0, ge=0, description="Nats of KL per group of latents that are not penalised (Kingma et al. 2016)."
    )
    free_bits_group: int = Field(
        default=1,
        ge=0,
        description="Latents or channels per group; the last group may be smaller. 0 makes each layer one group.",
    )
    samples: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Samples of the latents per image, K. Above 1, training maximises the importance-weighted bound "
        "L_K (Burda et al. 2016), which may be combined with warm-up and free bits.",
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
    """Optimization."""

    epochs: int = Field(default=100, ge=1, description="Number of passes over the training images.")
    global_batch: int = Field(default=32, ge=1, description="Images per step, over all workers and devices.")
    optimizer: Literal["adam", "adamw", "adamax"] = Field(default="adam", description="Optimizer.")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="Learning rate, at its maximum.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate after the warm-up: constant, or a cosine decay to 0."
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        description="Steps over which the learning rate rises linearly; 0 starts at its maximum.",
    )
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Weight decay of kernels, for adamw.")
    clip_norm: float = Field(
        default=0.0,
        ge=0,
        description="Maximum global norm of the gradients, which are scaled down to it; 0 disables it.",
    )
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Gradient accumulation: each device divides its part of a batch into this many micro-batches, and "
        "adds up their gradients before the all-reduce, so that a large batch needs the memory of a small one. The "
        "results differ only by rounding.",
    )
    reduce_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Data type of the all-reduce of gradients. bfloat16, for CPUs only, halves the traffic, and rounds "
        "to 8 bits at every addition. No effect on a single device.",
    )
    tensor_float_32: bool = Field(
        default=False,
        description="Allow TF32 on GPUs: float32 matrix products with 10 bits of mantissa, several times faster, whose "
        "results differ from those of CPUs. If false, float32 is float32 everywhere.",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average (EMA) of the weights, which evaluation and sampling use; 0 "
        "disables it.",
    )
    steps_per_call: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Steps per compiled call. Three times as many batches of images are held in memory. The results do "
        "not depend on it.",
    )
    eval_batch: int = Field(
        default=256, ge=1, description="Batch size of the evaluation after each epoch, over all devices."
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
    """Workers and their resources."""

    workers: Workers = Field(
        default=1,
        description="Number of worker processes, each with its own share of the data; [minimum, maximum] uses as many "
        "as fit on the cluster, and resizes when that changes. The results do not depend on it.",
    )
    resize_seconds: float = Field(
        default=60.0, ge=1, le=86_400, description="Seconds between two checks for resources for more workers."
    )
    gpus_per_worker: float = Field(
        default=0, ge=0, le=64, description="GPUs per worker, or the fraction of one; 0 trains on CPUs."
    )
    cpus_per_worker: float = Field(
        default=0,
        ge=0,
        le=1024,
        description="CPUs per worker, or the fraction of one; 0 divides the cluster's CPUs among the workers.",
    )
    logical_devices: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Logical devices per CPU worker, to try out training on several devices.",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="Restarts of a failed worker group within failure_window_hours and without a new checkpoint in "
        "between. The loss of a machine that was announced does not count.",
    )
    failure_window_hours: float = Field(
        default=1.0, ge=0, le=8784, description="Hours for which a failure counts; 0 counts all failures of a run."
    )
    autoscaling: bool = Field(
        default=False,
        description="The cluster adds nodes on demand: wait for them instead of refusing a job that needs more "
        "resources than the cluster has now.",
    )

    ports: Ports = Field(
        default=(),
        description="First and last port for TensorFlow's servers, one per worker, for firewall rules; [] uses any "
        "free ports. A released port may be unavailable for a minute, so allow twice as many as a machine has workers.",
    )
    peer_networks: Networks = Field(
        default=(),
        description="Networks that may connect to TensorFlow's servers, besides the addresses of the run's machines, "
        "for machines with several addresses. Anyone in these networks can read files and run operations as the "
        "worker's user.",
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
        """Minimum and maximum number of workers, which are equal if the number is fixed."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @property
    def elastic(self) -> bool:
        """True if the number of workers may change during a run."""
        fewest, most = self.bounds
        return fewest < most

    @property
    def devices_per_worker(self) -> int:
        """Number of devices per worker: GPUs, or logical CPU devices."""
        return max(math.ceil(self.gpus_per_worker), self.logical_devices)


class CheckpointSection(Section):
    """Frequency and number of checkpoints."""

    every_steps: int = Field(
        default=1000, ge=0, description="Steps between checkpoints; 0 writes them at the end of epochs only."
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="Newest checkpoints to keep, in addition to the best by validation ELBO, or by test ELBO if the "
        "data has no validation split.",
    )


class MonitorSection(Section):
    """Logging and its frequency."""

    log_every: int = Field(default=50, ge=1, description="Steps between two rows of training metrics.")
    pictures_every: int = Field(default=1, ge=0, description="Epochs between pictures; 0 writes them at the end only.")
    importance_samples: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Samples per image of the importance-weighted bound that is computed after each epoch, on the "
        "validation images, or on the test images if there are none; 0 computes none.",
    )
    pictures: int = Field(
        default=32,
        ge=1,
        le=256,
        description="Images in the grid of reconstructions; the grid of samples has twice that.",
    )
