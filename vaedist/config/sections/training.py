"""The training objective and its optimisation."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vaedist.config.sections.base import Section

EVALUATION_SAMPLES = 128  # samples of z per image, as in table 1 of Kingma et al. 2016


class ObjectiveSection(Section):
    """Training objective. The ELBO is always logged, even if another objective is maximised."""

    kl_warmup_epochs: float = Field(
        default=0.0, ge=0, description="Epochs over which the weight of the KL term rises from 0 to 1."
    )
    free_bits: float = Field(
        default=0.0, ge=0, description="Nats of KL per group of latents that are not penalised (Kingma et al. 2016)."
    )
    free_bits_group: int = Field(
        default=1,
        ge=0,
        description="Latents or channels per group; the last group may be smaller. 0 makes each layer one group.",
    )
    samples: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Samples of the latents per image, K. Above 1, training maximises the importance-weighted bound "
        "L_K (Burda et al. 2016), which may be combined with warm-up and free bits.",
    )
    gradient: Literal["plain", "dreg"] = Field(
        default="plain",
        description="Estimator of the gradient of L_K: plain, or doubly reparameterized with respect to the posterior "
        "(dreg; Tucker et al. 2019), for models of one stochastic layer, without free bits.",
    )

    @model_validator(mode="after")
    def _dreg_of_samples(self) -> Self:
        if self.gradient == "dreg" and self.samples == 1:
            raise ValueError("gradient = 'dreg' requires samples above 1; it must be 'plain' for samples = 1")
        if self.gradient == "dreg" and self.free_bits:
            raise ValueError(f"gradient = 'dreg' is biased with free bits; free_bits = {self.free_bits:g} must be 0")
        return self


class TrainingSection(Section):
    """Optimisation."""

    epochs: int = Field(default=100, ge=1, description="Number of passes over the training images.")
    global_batch: int = Field(default=32, ge=1, description="Images per step, over all workers and devices.")
    optimizer: Literal["adam", "adamw", "adamax"] = Field(default="adam", description="Optimizer.")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="Learning rate, at its maximum.")
    schedule: Literal["constant", "cosine", "linear", "exponential", "steps"] = Field(
        default="constant",
        description="Learning rate after the warm-up: constant; decaying until the last epoch, to decay_to; or in "
        "steps, by decay_epochs and decay_factors.",
    )
    decay_to: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Final learning rate of cosine, linear and exponential, as a fraction of the maximum; exponential "
        "requires more than 0.",
    )
    decay_epochs: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(),
        description="Steps: epochs after which the learning rate changes, in ascending order; fractions are allowed.",
    )
    decay_factors: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(),
        description="Steps: learning rate from each of decay_epochs on, as a fraction of the maximum.",
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        description="Steps over which the learning rate rises linearly; 0 starts at its maximum.",
    )
    epsilon: float = Field(
        default=1e-7, gt=0, le=1, description="Term of the optimizer's denominator that keeps it from 0."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Weight decay of kernels, for adamw.")
    clip_norm: float = Field(
        default=0.0,
        ge=0,
        description="Maximum global norm of the gradients, which are scaled down to it; 0 disables it.",
    )
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Gradient accumulation: each device divides its part of a batch into this many micro-batches, and "
        "adds up their gradients before the all-reduce, so that a large batch needs the memory of a small one. The "
        "results differ only by rounding.",
    )
    reduce_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Data type of the all-reduce of gradients. bfloat16, for CPUs only, halves the traffic, and rounds "
        "to 8 bits at every addition. No effect on a single device.",
    )
    precision: Literal["float32", "tf32", "mixed_bfloat16"] = Field(
        default="float32",
        description="Arithmetic of products and convolutions: float32; tf32, which on GPUs rounds their factors to 10 "
        "bits of mantissa; or mixed_bfloat16, which computes the layers of the networks with 8 bits, and everything "
        "else in float32, see docs/performance.md.",
    )
    deterministic: bool = Field(
        default=False,
        description="Use only deterministic operations on GPUs, so that a run gives the same numbers bit by bit, "
        "interrupted or not; slower. On CPUs runs are always deterministic.",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average (EMA) of the weights, which evaluation and sampling use; 0 "
        "disables it.",
    )
    steps_per_call: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Steps per compiled call. Three times as many batches of images are held in memory. The results do "
        "not depend on it.",
    )
    eval_batch: int = Field(
        default=256, ge=1, description="Batch size of the evaluation after each epoch, over all devices."
    )

    @property
    def decays_to_the_end(self) -> bool:
        """True if the learning rate depends on the number of epochs."""
        return self.schedule not in ("constant", "steps")

    @model_validator(mode="after")
    def _decay_of_the_schedule(self) -> Self:
        epochs, factors = self.decay_epochs, self.decay_factors
        if (epochs or factors) and self.schedule != "steps":
            name = "decay_epochs" if epochs else "decay_factors"
            raise ValueError(f"{name} requires schedule = 'steps'; it must be [] for {self.schedule!r}")
        if self.decay_to and not self.decays_to_the_end:
            raise ValueError(
                f"decay_to requires schedule = 'cosine', 'linear' or 'exponential'; it must be 0 for {self.schedule!r}"
            )
        if self.schedule == "exponential" and not self.decay_to:
            raise ValueError("schedule = 'exponential' requires decay_to above 0")
        if self.schedule == "steps" and (not epochs or len(epochs) != len(factors)):
            raise ValueError(
                f"schedule = 'steps' requires decay_epochs and decay_factors of the same length, at least 1; they have "
                f"{len(epochs)} and {len(factors)}"
            )
        if any(a >= b for a, b in pairwise(epochs)):
            raise ValueError(f"decay_epochs = {list(epochs)}: must be in ascending order")
        return self

    @model_validator(mode="after")
    def _decay_of_adamw(self) -> Self:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay requires optimizer = 'adamw'; it must be 0 for {self.optimizer!r}")
        return self

    @model_validator(mode="after")
    def _parts_with_images(self) -> Self:
        if self.accumulation_steps > self.global_batch:
            raise ValueError(
                f"accumulation_steps = {self.accumulation_steps}: must be at most global_batch = {self.global_batch}"
            )
        return self
