"""Results of an evaluation with many samples: means and their errors, scores of each image, and paired differences."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vaedist.errors import RunError
from vaedist.evaluation.text import difference_rows, evaluation_rows
from vaedist.wording import aligned, counted


@dataclass(frozen=True)
class Estimate:
    """A mean over images, and its standard error: the standard deviation over images, divided by sqrt(images).

    The standard error is that of the mean over a random set of images of this distribution. It includes the Monte-Carlo
    error of each image, which adds to the spread of the images.
    """

    mean: float
    standard_error: float


@dataclass(frozen=True)
class ImageScores:
    """Scores of each image, [N] each, float64, in nats; images are in the stored order of their split.

    Attributes:
        rows: number of each image in its split, see `LanePlan`; `Run.probe` returns the images 0, 1, ... of test.
        elbo, importance_bound: L_1 and L_K.
        reconstruction, kl: parts of L_1.
        effective_sample_size: between 1 and K.
    """

    rows: np.ndarray
    elbo: np.ndarray
    importance_bound: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    effective_sample_size: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Paired differences between the scores of two models on the same images, in nats per image.

    Attributes:
        images: number of images.
        elbo, importance_bound, reconstruction, kl: differences of L_1, of L_K, and of the parts of L_1. The standard
            error is that of the differences by image, which is far smaller than those of the two means if the same
            images are hard for both models.
    """

    images: int
    elbo: Estimate
    importance_bound: Estimate
    reconstruction: Estimate
    kl: Estimate

    def __repr__(self) -> str:
        """Returns the mean differences, one a line."""
        return aligned("Difference between two evaluations", difference_rows(self))


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model, in nats per image unless stated otherwise.

    Attributes:
        images: number of images that were scored.
        samples: K, the number of samples of z for each image.
        bounds: L_k, the importance-weighted bound with k samples, by k = 1, 2, 4, ..., K; L_1 is the ELBO.
        monte_carlo_errors: standard deviation of each of these means over samples of z for the same images, by k; NaN
            for a single sample, see `monte_carlo_variances`.
        rise: L_K - L_h with h = K // 2 samples, paired; None for a single sample. If it is not small, log p(x) is well
            above L_K.
        gap: L_K - L_1.
        reconstruction: E log p(x|z).
        kl: KL(q(z|x) || p(z)), the rate.
        effective_sample_size: (sum w)^2 / sum w^2, between 1 and K.
        bits_per_dim: of L_1 and of L_K; None if the likelihood defines none, see `bits_per_dim`.
        active_units: number of latents with Var_x(E_q[z]) > 0.01, computed from the encoder's mu if there is no flow;
            None if there are too few samples or images.
        active_units_withheld: the reason why there is no such number; None if there is one.
        latents: number of latents of all layers.
        channels: number of channels by layer, for the layers whose KL is by channel instead of by latent.
        active_channels: number of these channels whose KL exceeds `ACTIVE_KL`, see `active_channels`.
        kl_by_layer: the rate by stochastic layer.
        kl_per_unit: nats that each latent, or channel, adds to the rate; those of several layers are concatenated. With
            a flow only their sum is a KL divergence.
        scores: scores of each image.
    """

    images: int
    samples: int
    bounds: dict[int, Estimate]
    monte_carlo_errors: dict[int, float]
    rise: Estimate | None
    gap: Estimate
    reconstruction: Estimate
    kl: Estimate
    effective_sample_size: Estimate
    bits_per_dim: dict[int, Estimate] | None
    active_units: int | None
    active_units_withheld: str | None
    latents: int
    channels: dict[str, int]
    active_channels: dict[str, int]
    kl_by_layer: dict[str, Estimate]
    kl_per_unit: tuple[float, ...]
    scores: ImageScores = field(compare=False, repr=False)

    def __repr__(self) -> str:
        """Returns the mean scores, one a line; the attributes have all others."""
        title = f"Evaluation of {counted(self.images, 'image')}, {counted(self.samples, 'sample')} of z each"
        return aligned(title, evaluation_rows(self))

    @property
    def elbo(self) -> Estimate:
        """L_1, the variational lower bound (VLB)."""
        return self.bounds[1]

    @property
    def log_p(self) -> Estimate:
        """L_K, a lower bound on log p(x)."""
        return self.bounds[self.samples]

    @property
    def still_rises(self) -> bool | None:
        """True if L_K exceeds L_h, h = K // 2, by more than two paired standard errors; None if that is unknown."""
        if self.rise is None or math.isnan(self.rise.standard_error):
            return None
        return self.rise.mean > 2 * self.rise.standard_error

    def against(self, other: "Evaluation") -> Difference:
        """Returns this model's scores minus another's on the same images, see `Run.require_comparable`.

        Raises:
            RunError: the images or the numbers of samples differ.
        """
        if self.samples != other.samples or not np.array_equal(self.scores.rows, other.scores.rows):
            raise RunError(
                f"evaluations of {self.images:,} images with {self.samples} samples of z and of {other.images:,} with "
                f"{other.samples} are not paired: both must be of the same images, with the same number of samples"
            )
        names = ("elbo", "importance_bound", "reconstruction", "kl")
        return Difference(
            self.images, *(estimate_of(getattr(self.scores, name) - getattr(other.scores, name)) for name in names)
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns a dictionary for JSON, without the scores of each image."""
        record = asdict(self)
        del record["scores"]
        return record | {"still_rises": self.still_rises}


def estimate_of(values: np.ndarray) -> Estimate:
    """Returns the mean of the images' scores, [N], and its standard error, which is NaN for one image."""
    count = len(values)
    error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Estimate(float(values.mean()), error)
