"""The model card of an export: Markdown with the front matter of the Hugging Face Hub."""

import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from vaedist.export.loading import loading
from vaedist.export.origin import Origin
from vaedist.models.model import Model
from vaedist.version import __version__

NOT_STATED = "not stated"
LICENSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def model_card(origin: Origin, model: Model, license_name: str | None = None) -> str:
    """Returns the text of README.md.

    Args:
        origin: origin of the model.
        model: the model.
        license_name: license of the weights, such as "cc-by-4.0"; None if it is not stated.
    """
    position, experiment = origin.position, origin.experiment
    weights = ", exponential moving averages of the weights" if origin.ema else ""
    parts = [
        _front_matter(origin, license_name),
        f"# {origin.name}",
        f"A variational autoencoder trained by vaedist: model `{experiment.model.type}` on {_data_name(origin)}, step "
        f"{position.step:,} ({position.epoch} of {experiment.training.epochs} epochs){weights}.",
        *loading(origin, model),
        "## Scores",
        *_scores(origin),
        "## Model",
        _pairs(_model(origin, model)),
        "## Data",
        _pairs(_data(origin)),
        "## Training",
        "`vaedist train experiment.toml` trains this model, after `vaedist data prepare` has prepared the data set and "
        "`data.path` in `experiment.toml` has been set to its location.",
        _pairs(_training(origin)),
        "## Versions",
        _pairs(_versions()),
        "## License",
        license_name or NOT_STATED.capitalize() + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(origin: Origin, license_name: str | None) -> str:
    """Returns metadata as YAML, of which JSON values are a part."""
    fields: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["vaedist", "vae", "variational-autoencoder", "tensorflow", "image-generation"],
    }
    if license_name is not None and LICENSE_ID.fullmatch(license_name):
        fields["license"] = license_name.lower()
    elif license_name is not None:
        fields |= {"license": "other", "license_name": license_name}
    if origin.manifest is not None and origin.evaluations:
        fields["model-index"] = [{"name": origin.name, "results": _results(origin.manifest.name, origin.evaluations)}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _results(data: str, evaluations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the results of evaluations in the form of a model index."""
    return [
        {
            "task": {"type": "unconditional-image-generation"},
            "dataset": {"name": data, "type": data, "split": record["split"]},
            "metrics": [
                {"type": "elbo", "name": "ELBO, nats per image", "value": record["bounds"]["1"]["mean"]},
                {
                    "type": "log-likelihood-bound",
                    "name": f"L_{record['samples']}, nats per image",
                    "value": record["bounds"][str(record["samples"])]["mean"],
                },
            ],
        }
        for record in evaluations
    ]


def _scores(origin: Origin) -> Iterator[str]:
    if not origin.evaluations:
        yield from _training_scores(origin)
        return
    yield (
        "By `vaedist evaluate`, in nats per image, with standard errors over images. L_K is the importance-weighted "
        "bound on log p(x) with K samples of z per image (Burda et al. 2016)."
    )
    head = ("split", "images", "K", "ELBO", "L_K", "reconstruction", "KL", "bits/dim by the ELBO", "by L_K",
            "active units")  # fmt: skip
    yield _table(head, [_score_row(record) for record in origin.evaluations])
    yield f"The scores are those of {origin.evaluations[0]['scored']}."


def _score_row(record: Mapping[str, Any]) -> list[str]:
    samples, bits = record["samples"], record["bits_per_dim"] or {}
    units = record["active_units"]
    return [
        record["split"], f"{record['images']:,}", str(samples),
        *(_estimate(record["bounds"][str(k)]) for k in (1, samples)),
        _estimate(record["reconstruction"]), _estimate(record["kl"]),
        *(_estimate(bits.get(str(k)), 4) for k in (1, samples)),
        "-" if units is None else f"{units} of {record['latents']}",
    ]  # fmt: skip


def _training_scores(origin: Origin) -> Iterator[str]:
    """Yields the scores that the run recorded in training."""
    summary, elbo = origin.summary, origin.position.elbo
    averaged = origin.experiment.training.ema_decay > 0 and not origin.ema
    whose = ", of the moving averages of its weights" if averaged else ""
    yield (
        "These weights have no saved evaluation, which `vaedist evaluate` makes. The following is from the summary of "
        f"the run{whose}, without standard errors:"
    )
    rows = {}
    if elbo is not None:
        rows["ELBO of this checkpoint"] = f"{elbo:.3f} nats per image"
    if summary.elbo is not None:
        rows["ELBO after the last epoch"] = f"{summary.elbo:.3f} nats per image"
    if summary.best_elbo is not None:
        rows["best ELBO after an epoch"] = f"{summary.best_elbo:.3f} nats per image"
    yield _pairs(rows | {"scored images": f"{summary.split or 'none'}, one sample of z each"})


def _model(origin: Origin, model: Model) -> dict[str, Any]:
    options = origin.experiment.model
    parameters = sum(int(variable.value.shape.num_elements()) for variable in model.trainable_variables)
    packages = {f"SHA-256 of the source of package {name}": digest for name, digest in origin.position.packages.items()}
    return {
        "type": options.type,
        "images": " x ".join(map(str, model.image_shape)) + " (height, width, channels)",
        "trainable parameters": f"{parameters:,}",
        **{f"`{key}`": value for key, value in options.values().items()},
        **packages,
    }


def _data_name(origin: Origin) -> str:
    return "a data set" if origin.manifest is None else origin.manifest.name


def _data(origin: Origin) -> dict[str, Any]:
    experiment, manifest = origin.experiment, origin.manifest
    rows: dict[str, Any] = {}
    if manifest is not None:
        source = manifest.source
        rows["name"] = manifest.name
        rows["source"] = f"{source.kind}, {source.name}" + (f", SHA-256 {source.sha256}" if source.sha256 else "")
        rows |= {f"{name} images": f"{manifest.splits[name].rows:,}" for name in manifest.split_names}
        if manifest.held_out:
            rows["validation images"] += f", held out from the training images ({manifest.held_out})"
    else:
        rows["name"] = "unknown: the data set was not available to the export"
    preprocessing = experiment.model.preprocessing(experiment.data.binarize)
    return rows | {
        "fingerprint": origin.position.fingerprint,
        "`data.binarize`": experiment.data.binarize,
        "scored values": preprocessing.shown,
    }


def _training(origin: Origin) -> dict[str, Any]:
    experiment, position = origin.experiment, origin.position
    sections = {"objective": experiment.objective, "training": experiment.training}
    keys = {
        f"`{name}.{key}`": value for name, section in sections.items() for key, value in section.model_dump().items()
    }
    return {"steps": f"{position.step:,}", "epochs": position.epoch, "`seed`": experiment.seed, **keys}


def _versions() -> dict[str, str]:
    return {
        "vaedist": __version__,
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "Python": platform.python_version(),
    }


def _estimate(estimate: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Returns a mean and its standard error, which is None for a single image."""
    if estimate is None or estimate["mean"] is None:
        return "-"
    error = estimate["standard_error"]
    return f"{estimate['mean']:.{digits}f}" + ("" if error is None else f" +- {error:.{digits}f}")


def _pairs(rows: Mapping[str, Any]) -> str:
    return _table(("", ""), [[key, _shown(value)] for key, value in rows.items()])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _shown(value: Any) -> str:
    """Returns a value as in an experiment's TOML, but text without quotation marks."""
    if isinstance(value, str):
        return " ".join(value.split())
    return json.dumps(value)
