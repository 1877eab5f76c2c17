"""The evidence lower bound and its parts: each formula once, for training, evaluation and tests.

    ELBO(x) = E_q [ log p(x|z) + log p(z) - log q(z|x) ]  <=  log p(x)

in nats an image (Kingma and Welling 2014, equation 2; log q through the flow as in Kingma et al. 2016,
equation 11).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from vaedist.model import Posterior, VAEOutput
from vaedist.model.densities import log_standard_normal


class Bound(NamedTuple):
    """One-sample estimates for each image, in nats, each [B].

    elbo = reconstruction - kl; reconstruction estimates E_q log p(x|z), kl estimates KL(q(z|x) || p(z)),
    summed over the latents.
    """

    elbo: Any
    reconstruction: Any
    kl: Any


def bound(output: VAEOutput) -> Bound:
    """The ELBO of each image and its two parts, from one sample of z."""
    kl = ops.sum(kl_per_unit(output.posterior), axis=-1)
    return Bound(output.log_px - kl, output.log_px, kl)


def kl_per_unit(posterior: Posterior) -> Any:
    """What each latent adds to the estimate of the KL, log q_i - log p(z_i), [B, latent], in nats.

    Without a flow its mean is the KL of the unit. With one, the units of z_T depend on each other, and only
    the sum over the latents is a KL.
    """
    return posterior.log_q - log_standard_normal(posterior.z)


@dataclass(frozen=True)
class Objective:
    """What training maximises: the ELBO, or a relative of it that keeps latents in use while they are learnt.

    L = E log p(x|z) - beta_t sum_j max(lambda, KL_j): groups of `group` neighbouring latents with the mean over the
    batch, KL_j, below lambda = `free_bits` nats are not pushed further down (Kingma et al. 2016, section C.8), and
    beta_t = min(1, (t + 1) / warmup) rises over the first `warmup` updates t (Bowman et al. 2016). With neither, L is
    the ELBO.
    """

    warmup: int = 0
    free_bits: float = 0.0
    group: int = 1

    @property
    def is_elbo(self) -> bool:
        """Whether there is neither a warm-up nor free bits."""
        return not (self.warmup or self.free_bits)

    def kl_weight(self, step: Any) -> Any:
        """beta_t of update number `step`, counted from 0."""
        return ops.minimum(1.0, (ops.cast(step, "float32") + 1.0) / self.warmup) if self.warmup else 1.0

    def group_kl(self, posterior: Posterior) -> Any:
        """The KL's estimate by group, [B, groups], in nats."""
        units = kl_per_unit(posterior)
        units = ops.pad(units, ((0, 0), (0, -units.shape[1] % self.group)))
        return ops.sum(ops.reshape(units, (units.shape[0], -1, self.group)), axis=-1)

    def value(self, terms: Bound, posterior: Posterior, step: Any, group_means: Any) -> Any:
        """L, as one term an image, [B]; its mean over the batch is L.

        Args:
            terms: of the batch.
            posterior: that they came from.
            step: number of the update.
            group_means: KL_j over the whole batch, [groups]; not read without free bits.
        """
        if self.is_elbo:
            return terms.elbo
        kl = terms.kl
        if self.free_bits:
            kl = ops.sum(ops.where(group_means > self.free_bits, self.group_kl(posterior), self.free_bits), axis=-1)
        return terms.reconstruction - self.kl_weight(step) * kl


def active_units(samples: Any, threshold: float = 0.01) -> Any:
    """How many latents carry information: Var_x(E_q[z_i]) > threshold (Burda et al. 2016, section 5.2).

    E_q[z] is estimated by the mean of K samples; the part of its variance over images that comes from K being
    finite, E_x[Var_q(z_i)] / K, is taken off, so that a dead unit is not counted for its noise.

    Args:
        samples: [K, N, latent], K >= 2 samples of z for each of N images.
        threshold: in squared units of z.
    """
    count = samples.shape[0]
    between = ops.var(ops.mean(samples, axis=0), axis=0)
    within = ops.mean(ops.var(samples, axis=0), axis=0) / (count - 1)
    return ops.sum(ops.cast(between - within > threshold, "int32"))
