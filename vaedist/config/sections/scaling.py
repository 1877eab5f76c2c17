"""Workers and their resources."""

import math
from ipaddress import ip_network
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from vaedist.config.sections.base import Section

MOST_WORKERS = 4096


def _workers(given: Any) -> Any:
    """Validates a number of workers, or [minimum, maximum], with one error message for both."""
    bounds = list(given) if isinstance(given, list | tuple) else [given, given]
    numbers = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    if not numbers or len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] <= MOST_WORKERS:
        raise ValueError(f"must be a number from 1 to {MOST_WORKERS}, or the minimum and the maximum, as in [1, 4]")
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
        "between. Losses of machines after a preemption notice do not count.",
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
            raise ValueError("logical_devices divides a CPU; it must be 1 if gpus_per_worker is set")
        return self

    @model_validator(mode="after")
    def _a_gpu_of_its_own(self) -> Self:
        if 0 < self.gpus_per_worker < 1 and self.bounds[1] > 1:
            raise ValueError(
                f"gpus_per_worker = {self.gpus_per_worker:g} requires workers = 1: workers of one run cannot share "
                "a GPU (NCCL allows one rank per GPU)"
            )
        return self

    @model_validator(mode="after")
    def _whole_or_part_of_one(self) -> Self:
        for key in ("gpus_per_worker", "cpus_per_worker"):
            value = getattr(self, key)
            if value > 1 and value != int(value):
                raise ValueError(f"{key} = {value}: must be an integer, or less than 1")
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
