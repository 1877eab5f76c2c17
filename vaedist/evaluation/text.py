"""Scores of an evaluation as text, for the command line and for Python."""

from typing import TYPE_CHECKING

from vaedist.wording import counted

if TYPE_CHECKING:
    from vaedist.evaluation.results import Difference, Estimate, Evaluation


def evaluation_rows(found: "Evaluation") -> dict[str, str]:
    """Returns the mean scores and their errors, by title; scores that the evaluation lacks are left out."""
    samples = found.samples
    rows = {
        "ELBO": _nats(found.elbo),
        f"log p(x) >= L_{samples}": _nats(found.log_p),
        "Monte Carlo error": _monte_carlo(found),
    }
    if samples > 1:
        rows[f"L_{samples} - L_{samples // 2}"] = _rise(found)
    rows |= {
        "effective samples": f"{found.effective_sample_size.mean:.2f} of {samples}",
        "gap": _nats(found.gap),
        "reconstruction": _nats(found.reconstruction),
        "KL": _nats(found.kl),
    }
    if found.bits_per_dim is not None:
        rows["bits/dim <="] = _bits(found.bits_per_dim, samples)
    rows["active units"] = _active(found)
    if found.channels:
        rows["active channels"] = _active_channels(found)
    return rows


def difference_rows(found: "Difference") -> dict[str, str]:
    """Returns the mean differences between two models, image by image, by title."""
    return {
        "images": f"{found.images:,}, the same for both",
        "ELBO": _nats(found.elbo),
        "importance-weighted bound": _nats(found.importance_bound),
        "reconstruction": _nats(found.reconstruction),
        "KL": _nats(found.kl),
    }


def _nats(estimate: "Estimate") -> str:
    return f"{estimate.mean:.3f} +- {estimate.standard_error:.3f} nats"


def _monte_carlo(found: "Evaluation") -> str:
    if found.samples == 1:
        return "needs at least 2 samples"
    elbo, bound = found.monte_carlo_errors[1], found.monte_carlo_errors[found.samples]
    return f"{elbo:.3f} nats of the ELBO, {bound:.3f} of L_{found.samples}, on these images"


def _rise(found: "Evaluation") -> str:
    if found.rise is None:
        return ""
    verdict = {True: ": still rising, so more samples tighten the bound", False: ": no rise seen", None: ""}
    return _nats(found.rise) + verdict[found.still_rises]


def _bits(estimates: "dict[int, Estimate]", samples: int) -> str:
    elbo, log_p = estimates[1], estimates[samples]
    return f"{elbo.mean:.4f} +- {elbo.standard_error:.4f} by the ELBO, {log_p.mean:.4f} by L_{samples}"


def _active(found: "Evaluation") -> str:
    if found.active_units is None:
        return f"not counted: {found.active_units_withheld}"
    return f"{found.active_units} of {counted(found.latents, 'latent')}"


def _active_channels(found: "Evaluation") -> str:
    from vaedist.evaluation.active_units import ACTIVE_KL

    active, channels = sum(found.active_channels.values()), sum(found.channels.values())
    return f"{active} of {channels} have a KL above {ACTIVE_KL:g} nats"
