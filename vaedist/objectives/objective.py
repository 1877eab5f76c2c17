"""Training objectives: the ELBO, with KL warm-up and free bits."""

from dataclasses import dataclass
from typing import Any

from keras import ops

from vaedist.models import Posterior
from vaedist.objectives.elbo import Bound, kl_per_unit


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
        return terms.reconstruction - ops.cast(self.kl_weight(step), kl.dtype) * kl
