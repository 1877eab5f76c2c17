"""From an experiment to the training step that it describes."""

from typing import Any

from vaedist.config import Experiment
from vaedist.models.model import Model
from vaedist.objectives.objective import Objective
from vaedist.training.optimizer import make_optimizer
from vaedist.training.step import TrainStep


def build_step(
    experiment: Experiment, model: Model, strategy: Any, *, steps_per_epoch: int, global_batch: int
) -> TrainStep:
    """The update that an experiment describes.

    Args:
        experiment: names the optimizer, the objective and what is logged.
        model: made under the strategy's scope.
        strategy: whose replicas share the work.
        steps_per_epoch: by which epochs become numbers of updates.
        global_batch: rows of a full batch.
    """
    training, goal = experiment.training, experiment.objective
    return TrainStep(
        model,
        strategy,
        make_optimizer(training, training.epochs * steps_per_epoch),
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
        reduce_dtype=training.reduce_dtype if model.compute_dtype == "float32" else None,  # a check is exact
        seed=experiment.seed,
    )
