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
    """The objective that training maximises: the ELBO, optionally modified, or the importance-weighted bound.

    With one sample, L = E log p(x|z) - beta_t sum_j c_j. c_j is the KL divergence of group j, KL_j, if its mean over
    the batch of the previous update exceeded lambda = `free_bits` nats. Otherwise c_j is lambda, without a gradient.
    Kingma et al. 2016, section C.8, have max(lambda, KL_j) with the mean over the current batch. Every replica already
    knows the previous means, so no further forward pass or all-reduce is necessary. At the first update, c_j = KL_j.
    The weight beta_t = min(1, (t + 1) / warmup) rises over the first `warmup` updates t (Bowman et al. 2016). Without
    free bits and warm-up, L is the ELBO.

    With K samples, L = E log 1/K sum_k exp(log w_k), where log w_k is the expression above for sample k (Burda et al.
    2016, equation 8), and KL_j is a mean over samples too.

    The doubly reparameterized gradient is unbiased with warm-up, but not with free bits: it is known by group which
    part of log q they drop, but not by component of the sample.

    Attributes:
        warmup: updates until the KL divergence has its full weight.
        free_bits: lambda, in nats.
        group: number of neighbouring groups of a layer's KL that are added up to one; 0 adds up all of a layer.
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
        """True for the plain ELBO: no warm-up, no free bits, one sample, plain gradient."""
        return not (self.warmup or self.free_bits or self.samples > 1 or self.gradient == "dreg")

    @property
    def drawn(self) -> int | None:
        """Size of the noise's axis of samples; None for one sample without that axis."""
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
        """Returns each image's term of L, [B]; L is their mean over the batch.

        With log w = log p(x|z) + beta (log p(z) - log q(z|x)), the factors on the gradients with respect to samples are
        1 - beta (1 - w_k), with normalised weights w_k: the expectation of w_k d log q(z_k|x)/d phi at fixed z_k is
        that of w_k (1 - w_k) d log w_k/dz_k dz_k/d phi (Tucker et al. 2019), and enters L with -beta.

        Args:
            score: score of the batch, S = [B], or [B, K] if `drawn` is K.
            step: number of the update.
            group_means: KL_j over the previous batch, [groups]; only used with free bits.
            path: the context in which the batch was scored, as `self.path` returns it; its weights are set here.
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
        """Returns sums over neighbouring groups of a layer, S + [groups]."""
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
