"""Training objectives: the ELBO, with KL warm-up and free bits, and the importance-weighted bound."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from vaedist.models.model import Score
from vaedist.models.reparameterization import PathGradients, doubly_reparameterized
from vaedist.objectives.elbo import bound

Gradient = Literal["plain", "dreg"]


@dataclass(frozen=True)
class Objective:
    """The objective that training maximises: the ELBO, or a relative of it.

    With one sample, L = E log p(x|z) - beta_t sum_j max(lambda, KL_j): groups j with a mean over the batch, KL_j, below
    lambda = `free_bits` nats are not pushed further down (Kingma et al. 2016, section C.8), and
    beta_t = min(1, (t + 1) / warmup) rises over the first `warmup` updates t (Bowman et al. 2016). With neither, L is
    the ELBO. With K samples, L = E log 1/K sum_k exp(log w_k), where log w_k is the expression above at sample k
    (Burda et al. 2016, equation 8); KL_j is then a mean over samples too.

    The doubly reparameterized gradient is unbiased with warm-up, but not with free bits: which part of log q they
    drop is known by group, and not by component of the sample.

    Attributes:
        warmup: updates until the KL divergence counts in full.
        free_bits: lambda, in nats.
        group: neighbouring groups of a layer's KL that are taken together; 0 takes all of a layer.
        samples: K.
        gradient: "plain", or "dreg" for the doubly reparameterized gradient (Tucker et al. 2019), without free bits.
    """

    warmup: int = 0
    free_bits: float = 0.0
    group: int = 1
    samples: int = 1
    gradient: Gradient = "plain"

    @property
    def is_elbo(self) -> bool:
        """True if the objective is the ELBO itself, without warm-up, free bits or further samples, and its gradient."""
        return not (self.warmup or self.free_bits or self.samples > 1 or self.gradient == "dreg")

    @property
    def drawn(self) -> int | None:
        """Samples of each image to draw, as an axis of the noise; None draws one, without that axis."""
        return self.samples if self.samples > 1 or self.gradient == "dreg" else None

    def kl_weight(self, step: Any) -> Any:
        """Returns beta_t of update number `step`, counted from 0."""
        return ops.minimum(1.0, (ops.cast(step, "float32") + 1.0) / self.warmup) if self.warmup else 1.0

    def groups(self, layers: dict[str, int]) -> int:
        """Returns the number of groups that free bits apply to, from the number of the KL's groups in each layer."""
        return sum(-(-count // (self.group or count)) for count in layers.values())

    def group_kl(self, score: Score) -> Any:
        """Returns the KL divergence by group of free bits, S + [groups], in nats."""
        return ops.concatenate([self._grouped(kl) for kl in score.kl.values()], axis=-1)

    def value(self, score: Score, step: Any, group_means: Any = None, path: PathGradients | None = None) -> Any:
        """Returns L as one term for each image, [B]; its mean over the batch is L.

        With log w = log p(x|z) + beta (log p(z) - log q(z|x)), the factors on the gradients with respect to samples are
        1 - beta (1 - w_k), with normalised weights w_k: the expectation of w_k d log q(z_k|x)/d phi at fixed z_k is
        that of w_k (1 - w_k) d log w_k/dz_k dz_k/d phi (Tucker et al. 2019), and enters L with -beta.

        Args:
            score: of the batch, S = [B], or [B, K] where `drawn` is K.
            step: number of the update.
            group_means: KL_j over the whole batch, [groups]; not read without free bits.
            path: the context in which the batch was scored, see `path`; its weights are set.
        """
        log_w = self.log_weights(score, step, group_means)
        if path is not None:
            path.weights = 1.0 - ops.cast(self.kl_weight(step), log_w.dtype) * (1.0 - normalised_weights(log_w))
        return log_w if self.drawn is None else log_mean_exp(log_w)

    def log_weights(self, score: Score, step: Any, group_means: Any = None) -> Any:
        """Returns log w of each sample, S: its ELBO, with warm-up and free bits."""
        parts = bound(score)
        if not (self.warmup or self.free_bits):
            return parts.elbo
        kl = parts.kl
        if self.free_bits:
            kl = ops.sum(ops.where(group_means > self.free_bits, self.group_kl(score), self.free_bits), axis=-1)
        return parts.reconstruction - ops.cast(self.kl_weight(step), kl.dtype) * kl

    def path(self) -> Any:
        """Returns the context in which a batch is scored for this objective's gradient, see `PathGradients`."""
        return doubly_reparameterized() if self.gradient == "dreg" else nullcontext()

    def _grouped(self, kl: Any) -> Any:
        """Sums of neighbouring groups of a layer, S + [groups]."""
        *leading, count = kl.shape
        size = self.group or count
        kl = ops.pad(kl, (*((0, 0) for _ in leading), (0, -count % size)))
        return ops.sum(ops.reshape(kl, (*leading, -1, size)), axis=-1)


def log_mean_exp(log_w: Any) -> Any:
    """Returns log 1/K sum_k exp(log_w_k) over the last axis, [B, K] to [B]."""
    return ops.logsumexp(log_w, axis=-1) - math.log(log_w.shape[-1])


def normalised_weights(log_w: Any) -> Any:
    """Returns w_k / sum_j w_j over the last axis, [B, K], without a gradient."""
    return ops.stop_gradient(ops.softmax(log_w, axis=-1))
