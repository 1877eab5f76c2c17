"""Description of a training without starting it: steps, parameters, memory and time."""

import math
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from statistics import median
from typing import Any

from vaedist.config import Experiment, differences
from vaedist.data.lanes import LanePlan
from vaedist.data.manifest import Manifest
from vaedist.errors import VaedistError
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.folder import RunFolder
from vaedist.runs.resuming import MAY_CHANGE
from vaedist.runs.summary import list_runs
from vaedist.wording import counted

CHUNKS = 3  # chunks of `training.steps_per_call` batches that are held in memory
WORD = 4  # bytes of a float32
UNLIKE = tuple(key for key in MAY_CHANGE if key not in ("scaling.", "training.steps_per_call"))


def describe_job(experiment: Experiment, manifest: Manifest, *, from_step: int = 0) -> dict[str, str]:
    """Returns what a training would compute, by title.

    It creates the model on this machine's CPU, which loads TensorFlow and takes seconds.

    Args:
        experiment: the experiment.
        manifest: manifest of its data.
        from_step: step from which the run would be resumed.

    Raises:
        VaedistError: the model cannot be created.
    """
    training, train = experiment.training, manifest.splits["train"]
    steps = LanePlan(train.rows, len(train.shards), training.global_batch).steps
    total = training.epochs * steps
    rows = ", ".join(f"{split.rows:,} {name}" for name, split in manifest.splits.items())
    described = {
        "data": f"{experiment.data.path}: {rows} images of {'x'.join(map(str, manifest.shape))}",
        "fingerprint": manifest.fingerprint,
        "steps": f"{total:,}: {counted(training.epochs, 'epoch')} of {counted(steps, 'step')} of "
        f"{counted(training.global_batch, 'image')}",
    }
    if from_step:
        described["steps"] += f"; {total - from_step:,} remain after step {from_step:,}"
    count = count_parameters(experiment, manifest)
    described["parameters"] = f"{count:,} ({experiment.model.type})"
    described["memory per device"] = ", ".join(
        f"{title} {_size(size)}" for title, size in memory(experiment, manifest, count).items()
    ) + "; exact, but without activations and TensorFlow itself"  # fmt: skip
    described["time"] = _time(experiment, (total - from_step) / total * training.epochs * train.rows)
    return described


def count_parameters(experiment: Experiment, manifest: Manifest) -> int:
    """Returns the number of the model's trainable parameters."""
    from vaedist.models.build import build_model, training_policy

    model = build_model(experiment, manifest.shape, training_policy(experiment))
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def memory(experiment: Experiment, manifest: Manifest, parameters: int) -> dict[str, int]:
    """Returns the bytes of what a device holds all the time, by title; activations are not included."""
    from vaedist.training.optimizer import make_optimizer

    training, scaling = experiment.training, experiment.scaling
    weights = WORD * parameters
    slots = len(make_optimizer(training, 1).slots)
    devices = scaling.bounds[0] * scaling.devices_per_worker
    images = CHUNKS * training.steps_per_call * -(-training.global_batch // devices) * math.prod(manifest.shape)
    averages = int(training.ema_decay > 0)
    found = {"weights": weights, "gradients": weights, "moments": (slots - averages) * weights}
    if averages:
        found["moving averages"] = weights
    return found | {"images read ahead": images}


def _time(experiment: Experiment, images: float) -> str:
    """Returns an estimate of the time of training on a number of images, from the newest run of the same job here."""
    known = max(_measured(experiment), default=None)
    if known is None:
        return "unknown: no run of this job on this machine in run.folder"
    _, rate, name = known
    seconds = images / rate
    return f"about {_duration(seconds)} of training steps, at the {rate:,.0f} images/s of run {name} on this machine"


def _measured(experiment: Experiment) -> Iterator[tuple[float, float, str]]:
    """Yields the time, the images per second and the name of the runs of the same job on this machine."""
    with suppress(VaedistError):
        for run in list_runs(experiment.run.folder):
            with suppress(VaedistError, OSError, ValueError):
                rates = _rates(run)
                changed = (key for key, *_ in differences(run.read_experiment(), experiment))
                if rates and not [key for key in changed if not key.startswith((*UNLIKE, "seed"))]:
                    yield run.metrics.stat().st_mtime, median(rates), run.name


def _rates(run: RunFolder) -> list[float]:
    """Returns the images per second of a run's rows; none if it ran on another machine.

    The first row is omitted, as it includes compilation.
    """
    here = any(f".{socket.gethostname()}." in path.name for path in run.files_in(run.tensorboard))
    rows = read_metrics(run.metrics) if here else []
    return [row["images_per_second"] for row in rows if row["kind"] == "train" and row["images_per_second"]][1:]


def _size(number: float) -> str:
    return f"{number / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return counted(round(seconds), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def described_workers(experiment: Experiment, resources: Mapping[str, Any] | None) -> str:
    """Returns the number of workers and devices, and what each worker reserves if that is known."""
    scaling = experiment.scaling
    fewest, most = scaling.bounds
    count = f"{fewest} to {most} workers" if scaling.elastic else counted(most, "worker")
    kind = "GPU" if scaling.gpus_per_worker else "CPU device"
    text = f"{count} of {counted(scaling.devices_per_worker, kind)}"
    if resources is None:
        cpus = f"{scaling.cpus_per_worker:g} CPUs" if scaling.cpus_per_worker else "an equal share of the CPUs"
        return f"{text}, each with {cpus}"
    return f"{text}, each with " + " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
