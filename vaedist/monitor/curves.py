"""Curves of a run in TensorBoard: tags, their meaning and units, and the charts of the dashboard "Custom Scalars".

Curves of training are in the subfolder train/ of a run's TensorBoard folder, and those of the split that is scored
after each epoch in test/ or validation/. The same quantity has the same tag in both, so that TensorBoard draws both
curves in one chart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TRAIN = "train"  # subfolder of the curves of training
RATES = ("learning_rate", "gradient_norm", "images_per_second", "step_seconds", "input_wait")
# Entries of a row that are no metrics of the model, besides `RATES`, the terms of the ELBO and the KL by layer.
OTHERS = ("kind", "epoch", "step", "rows", "objective", "kl_weight", "importance_bound", "train_elbo", "best")
TERMS = ("elbo", "bits_per_dim", "reconstruction", "kl")

# Meaning of each tag, as Markdown. A tag that ends with "/" stands for all tags that begin with it.
DESCRIPTIONS = {
    "elbo": "Evidence lower bound, nats per image: `reconstruction` - `kl`. Higher is better. "
    "train: mean since the last point; test or validation: mean over the split after an epoch.",
    "bits_per_dim": "-`elbo` / (D ln 2) for D pixel values, plus 8 for densities of dequantised pixels. Lower is "
    "better. Only for likelihoods that define it.",
    "reconstruction": "E log p(x|z), with z drawn from q(z|x), nats per image.",
    "kl": "KL(q(z|x) || p(z)), summed over all latents and estimated from the sample of z, nats per image.",
    "kl_by_layer/": "KL divergence of a stochastic layer, nats per image, for models of several layers.",
    "model/": "Metric that the model defines, mean over images; for flows, `gate_k` is the mean gate of step k, and "
    "`log_det_k` its log-determinant, in nats.",
    "objective": "The maximised objective, nats per image, if it is not the ELBO.",
    "epoch_elbo": "ELBO, nats per image: mean over all training steps of an epoch, while the weights change.",
    "optimizer/learning_rate": "Learning rate of the last step.",
    "optimizer/gradient_norm": "Global norm of the gradient of the last step, before clipping.",
    "optimizer/kl_weight": "Weight of the KL term in the objective, 0 to 1, during warm-up.",
    "throughput/images_per_second": "Training images per second, over all workers; test passes are not counted.",
    "throughput/images_per_second_per_worker": "Training images per second and worker.",
    "throughput/step_ms": "Time of a training step, milliseconds.",
    "throughput/input_wait": "Fraction of the time spent waiting for images, 0 to 1.",
    "importance/bound": "Importance-weighted bound with `monitor.importance_samples` samples, nats per image. "
    "Higher is better.",
    "importance/gap": "Importance-weighted bound - ELBO, nats per image; at least 0, up to sampling noise.",
    "latent/active_units": "Number of active units: latents whose E[z|x] has a variance above 0.01 over images.",
    "latent/active_channels": "Number of channels whose KL divergence is above 0.01 nats, over all layers.",
    "latent/active_channels_by_layer/": "Number of channels of a layer whose KL divergence is above 0.01 nats.",
    "latent/kl_per_unit": "Histogram of the KL divergence of each latent or channel, nats.",
    "latent/kl_per_unit/": "Histogram of the KL divergence of each latent or channel of a layer, nats.",
    "evaluation/": "Result of `vaedist evaluate`: bounds, gaps and KL divergences in nats per image.",
    "hparam/": "Scores of one trial of a sweep, for HParams, with units as above: those after its last epoch, its "
    "best value of the sweep's metric, and its number of epochs.",
}


def description(tag: str) -> str:
    """Returns the meaning and unit of a tag; empty for unknown tags."""
    return DESCRIPTIONS.get(tag) or next(
        (text for prefix, text in reversed(DESCRIPTIONS.items()) if prefix.endswith("/") and tag.startswith(prefix)), ""
    )


def training_scalars(row: Mapping[str, Any], *, workers: int, layers: Sequence[str]) -> dict[str, float]:
    """Returns the points of a row of training metrics, by tag.

    Args:
        row: the row, see `RunLogger.train`.
        workers: number of workers.
        layers: names of the model's stochastic layers.
    """
    found = _of_both(row, layers) | {
        "optimizer/learning_rate": row["learning_rate"],
        "optimizer/gradient_norm": row["gradient_norm"],
        "throughput/images_per_second": row["images_per_second"],
        "throughput/images_per_second_per_worker": row["images_per_second"] / workers,
        "throughput/step_ms": 1000 * row["step_seconds"],
        "throughput/input_wait": row["input_wait"],
    }
    if "objective" in row:
        found |= {"objective": row["objective"], "optimizer/kl_weight": row["kl_weight"]}
    return found


def epoch_scalars(row: Mapping[str, Any], *, layers: Sequence[str]) -> dict[str, float]:
    """Returns the points of the means over the scored split, by tag."""
    found = _of_both(row, layers)
    if row.get("importance_bound") is not None:
        found |= {"importance/bound": row["importance_bound"], "importance/gap": row["importance_bound"] - row["elbo"]}
    return found


def charts(layers: Sequence[str], *, bits_per_dim: bool, importance: bool) -> dict[str, dict[str, str]]:
    """Returns the charts of a run: regular expressions of tags, by category and title of the chart.

    A chart shows the curves of all selected runs, and so those of training and of the test or validation split.

    Args:
        layers: names of the model's stochastic layers.
        bits_per_dim: True if the model has bits/dim.
        importance: True if the importance-weighted bound is computed after each epoch.
    """
    bound = {"ELBO, nats per image": "^elbo$"}
    if bits_per_dim:
        bound["bits per dimension"] = "^bits_per_dim$"
    if importance:
        bound["importance-weighted bound and ELBO, nats per image"] = "^(elbo|importance/bound)$"
    found = {
        "bound": bound,
        "terms of the ELBO": {"reconstruction, nats per image": "^reconstruction$", "KL, nats per image": "^kl$"},
    }
    if len(layers) > 1:
        found["layers"] = {
            "KL by layer, nats per image": "^kl_by_layer/",
            "active channels by layer": "^latent/active_channels_by_layer/",
        }
    found["throughput"] = {"images per second": "^throughput/images_per_second$", "step, ms": "^throughput/step_ms$"}
    return found


def hparam_metrics(split: str, *, bits_per_dim: bool, importance: bool) -> list[tuple[str, str]]:
    """Returns the curves whose last points are the metrics of the HParams table: subfolder and tag of each."""
    found = [(split, "elbo"), (split, "reconstruction"), (split, "kl")]
    if bits_per_dim:
        found.insert(0, (split, "bits_per_dim"))
    if importance:
        found.append((split, "importance/bound"))
    return [*found, (TRAIN, "throughput/images_per_second")]


def _of_both(row: Mapping[str, Any], layers: Sequence[str]) -> dict[str, float]:
    """Returns the points of quantities that both training and the scored split have."""
    found = {tag: row[tag] for tag in TERMS if tag in row}
    by_layer = {f"kl_{name}": f"kl_by_layer/{name}" for name in layers} if len(layers) > 1 else {}
    found |= {tag: row[name] for name, tag in by_layer.items() if name in row}
    known = {*TERMS, *by_layer, *RATES, *OTHERS}
    return found | {f"model/{name}": value for name, value in row.items() if name not in known}
