"""Building the training step of an experiment."""

import math
from typing import Any

from vaedist.config import Experiment
from vaedist.errors import ConfigError
from vaedist.evaluation.scoring import score_layout
from vaedist.models.model import Model
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import make_optimizer
from vaedist.training.step import TrainStep


def build_step(
    experiment: Experiment, model: Model, strategy: Any, *, steps_per_epoch: int, global_batch: int
) -> TrainStep:
    """Returns the training step of an experiment.

    Args:
        experiment: settings of the optimizer, the objective and the logs.
        model: the model, created in the strategy's scope.
        strategy: the strategy whose replicas share the work.
        steps_per_epoch: updates in an epoch, to convert warm-up and schedule to updates.
        global_batch: rows of a full batch.

    Raises:
        ConfigError: free bits are for smaller groups than the model has.
    """
    training, goal = experiment.training, experiment.objective
    _require_groups(experiment, model)
    return TrainStep(
        model,
        strategy,
        make_optimizer(training, steps_per_epoch),
        Objective(
            round(goal.kl_warmup_epochs * steps_per_epoch),
            goal.free_bits,
            goal.free_bits_group,
            goal.samples,
            goal.gradient,
        ),
        global_batch=global_batch,
        steps_per_call=training.steps_per_call,
        norm_every=experiment.monitor.log_every,
        clip_norm=training.clip_norm,
        accumulation_steps=training.accumulation_steps,
        reduce_dtype=training.reduce_dtype if model.variable_dtype == "float32" else None,  # float64 checks are exact
        seed=experiment.seed,
    )


def _require_groups(experiment: Experiment, model: Model) -> None:
    """Refuses free bits by group of latents where the KL divergence of a layer is one number for all its latents."""
    if not (experiment.objective.free_bits and experiment.objective.free_bits_group):
        return
    layout = score_layout(model)
    for name, groups in layout.layers.items():
        latents = math.prod(layout.latents.get(name, (1,)))
        if groups == 1 and latents > 1:
            raise ConfigError(
                f"objective.free_bits_group = {experiment.objective.free_bits_group}: the KL divergence of layer "
                f"{name!r} is one number for its {latents} latents, so that free bits can only be those of the whole "
                "layer; it must be 0 for this model, and objective.free_bits the nats of all latents together"
            )
