"""Commented job files for a start with one's own data."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from vaedist.config.experiment import Experiment
from vaedist.config.keys import described_keys

COLUMNS = 120
LEAST_STEPS = 2000  # of a run; with few images, this takes more epochs
# Values by model and size, by dotted key. Those of the ResNet are as in the jobs for photos and CIFAR-10.
FLOW = {"model.flow.depth": 3, "model.flow.width": 320}
DENSE: Mapping[str, Any] = {
    "training.epochs": 20, "training.global_batch": 128, "training.learning_rate": 1e-3, "training.steps_per_call": 8,
}  # fmt: skip
DEEP: Mapping[str, Any] = {
    "model.residual_scale": 1.0, "model.flow.depth": 1, "objective.free_bits": 0.25, "training.epochs": 20,
    "training.global_batch": 16, "training.learning_rate": 0.004, "training.schedule": "cosine",
    "training.warmup_steps": 100, "training.clip_norm": 30000.0, "training.ema_decay": 0.99,
}  # fmt: skip
VALUES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "mlp": {
        "small": {"model.hidden": 200, "model.latent": 32, "model.flow.depth": 2, "model.flow.width": 160, **DENSE},
        "medium": {"model.hidden": 500, "model.latent": 64, **FLOW, **DENSE},
        "large": {"model.hidden": 1000, "model.layers": 2, "model.latent": 128, **FLOW, **DENSE},
    },
    "conv": {
        "small": {"model.width": 16, "model.hidden": 128, "model.latent": 32, **FLOW, **DENSE},
        "medium": {"model.width": 32, "model.hidden": 256, "model.latent": 64, **FLOW, **DENSE},
        "large": {"model.width": 64, "model.hidden": 512, "model.latent": 128, **FLOW, **DENSE},
    },
    "resnet": {
        "small": {"model.levels": 2, "model.blocks": 1, "model.width": 32, "model.latent": 8, **DEEP},
        "medium": {"model.levels": 2, "model.blocks": 2, "model.width": 32, "model.latent": 16, **DEEP},
        "large": {
            "model.levels": 2, "model.blocks": 3, "model.width": 64, "model.latent": 16, **DEEP,
            "training.global_batch": 32, "training.learning_rate": 0.003, "training.warmup_steps": 200,
        },
    },
}  # fmt: skip


def starter_job(data: str, model: str, size: str, file: str, images: int | None = None) -> str:
    """Returns the text of a job file, in which the schema's description stands above each key.

    Args:
        data: location of the prepared data set.
        model: "mlp", "conv" or "resnet".
        size: "small", "medium" or "large".
        file: name of the file, for the commands in its first lines.
        images: number of training images; if they are few, the job has more epochs. None if it is unknown.
    """
    values = {"data.path": data, "model.type": model, **VALUES[model][size]}
    if images:
        epochs = math.ceil(LEAST_STEPS / math.ceil(images / values["training.global_batch"]))
        values["training.epochs"] = max(values["training.epochs"], epochs)
    experiment = Experiment().with_values(values)
    described = dict(described_keys(Experiment.of_classes_in({"model": {"type": model}})))
    lines = [
        f"# A {size} {model} VAE. All keys, with their ranges and defaults: vaedist config schema --model {model}",
        "#",
        f"#   vaedist train {file} --dry-run    what would be started",
        f"#   vaedist train {file}",
    ]
    for table in dict.fromkeys(key.rpartition(".")[0] for key in values):
        lines += ["", f"[{table}]"]
        for key in values:
            if key.rpartition(".")[0] == table:
                lines += [*_comment(described[key].description or ""), _assignment(key, _value(experiment, key))]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, COLUMNS - 2, break_long_words=False, break_on_hyphens=False))


def _assignment(key: str, value: Any) -> str:
    return tomli_w.dumps({key.rpartition(".")[2]: value}).rstrip("\n")


def _value(experiment: Experiment, key: str) -> Any:
    found: Any = experiment
    for part in key.split("."):
        found = getattr(found, part)
    return found
