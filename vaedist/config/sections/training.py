"""The training objective and its optimization."""

from typing import Literal, Self

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
    """Optimization."""

    epochs: int = Field(default=100, ge=1, description="Number of passes over the training images.")
    global_batch: int = Field(default=32, ge=1, description="Images per step, over all workers and devices.")
    optimizer: Literal["adam", "adamw", "adamax"] = Field(default="adam", description="Optimizer.")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="Learning rate, at its maximum.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate after the warm-up: constant, or a cosine decay to 0."
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        description="Steps over which the learning rate rises linearly; 0 starts at its maximum.",
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
