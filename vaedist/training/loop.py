"""The training loop of a worker: from a position in the run to its end, with any strategy.

All workers run the same steps; rank 0 also logs and saves. A position is an epoch and a step. It determines the rows of
each batch, the noise and the update, so that a resumed run reaches the same weights as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any, NoReturn

import numpy as np

from vaedist.config import Experiment
from vaedist.data.lane_reader import read_ahead
from vaedist.data.worker_data import WorkerData
from vaedist.devices.batches import PlacedChunk
from vaedist.errors import Interrupted, NonFiniteError, RunError, VaedistError
from vaedist.evaluation.importance import ImportanceEvaluator
from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.model import Model
from vaedist.monitor.events import Saved, Started
from vaedist.objectives.elbo import bits_per_dim
from vaedist.packages import digests_of, user_packages
from vaedist.runs.async_checkpointer import AsyncCheckpointer
from vaedist.runs.checkpoint import Checkpoint, Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.training.build import build_step
from vaedist.training.metric_sums import MetricSums, Stopwatch
from vaedist.training.run_logger import RunLogger
from vaedist.training.state import averaged, load_variables, named_slots, named_variables

MOST_NAMED = 3  # non-finite values that an error names


class Loop:
    """Training loop of one worker.

    Args:
        experiment: the experiment to train.
        model, strategy: the model, created in the strategy's scope.
        inputs: the worker's data.
        store: the run's checkpoints.
        checkpoint: the checkpoint to resume from; None starts a new run.
        recorder: the run's logger, on rank 0; None on other workers.
        importance: computes the importance-weighted bound after each epoch, on rank 0; None skips it.
        workers: number of workers.
        should_stop: called before every call of the step; if it returns True on any worker, all stop after the same
            step.
        should_save: called after every call of the step, on rank 0 only, which alone saves checkpoints.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Model,
        strategy: Any,
        inputs: WorkerData,
        store: CheckpointStore,
        *,
        checkpoint: Checkpoint | None = None,
        recorder: RunLogger | None = None,
        importance: ImportanceEvaluator | None = None,
        workers: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
        should_save: Callable[[], bool] = lambda: False,
    ) -> None:
        self.experiment, self.model, self.strategy, self.inputs = experiment, model, strategy, inputs
        self.importance = importance
        self.store, self.saver, self.recorder, self.workers = store, AsyncCheckpointer(store), recorder, workers
        self.should_stop, self.should_save = should_stop, should_save
        training = experiment.training
        self.steps_per_epoch = inputs.train.plan.steps
        self.total_steps = training.epochs * self.steps_per_epoch
        self.step = build_step(
            experiment, model, strategy, steps_per_epoch=self.steps_per_epoch, global_batch=training.global_batch
        )
        self.evaluator = Evaluator(model, strategy, inputs.scored, seed=experiment.seed)
        self.packages = digests_of(user_packages(experiment.model.model_dump()))
        self.taken, saved, self.best = 0, None, -math.inf
        if checkpoint is not None:
            self._restore(checkpoint)
            saved = checkpoint.position.meters
        self.meters = MetricSums(self.step.sums, saved)
        self.clock, self.waited = Stopwatch(), 0.0

    def run(self) -> dict[str, float]:
        """Trains to the end of the run.

        Returns:
            Means of the last pass over the evaluated split.

        Raises:
            NonFiniteError: a loss, a gradient or the ELBO of an epoch is not finite; earlier checkpoints stay.
            Interrupted: a stop was requested; a checkpoint of the last step is committed.
            StorageError: the run's folder cannot be written.
        """
        self._announce()
        means: dict[str, float] = {}
        if self.taken == self.total_steps:  # resumed after the last step
            with averaged(self.model, self.step, self.taken):
                means = self.evaluator.run(self._epoch)
                self._finish()
        with self.saver, closing(self._chunks()) as chunks:
            while (chunk := self._next(chunks)) is not None:
                stop = self._take(chunk)
                self.saver.check()
                asked = self._asked_to_save()
                at_epoch_end = self.taken % self.steps_per_epoch == 0
                if at_epoch_end:
                    means = self._end_epoch(asked=asked)
                elif stop or asked or self._due(self.experiment.checkpoint.every_steps):
                    self._save(asked=asked)
                if stop or asked:  # the requester waits for the checkpoint
                    self.saver.settle()
                if stop and self.taken < self.total_steps:
                    raise Interrupted(f"stopped at step {self.taken} of {self.total_steps}, which is saved")
            self.saver.settle()
        return means

    @property
    def _epoch(self) -> int:
        """Number of completed epochs."""
        return self.taken // self.steps_per_epoch

    def _due(self, every: int) -> bool:
        return every > 0 and self.taken % every == 0

    def _asked_to_save(self) -> bool:
        return self.recorder is not None and self.should_save()

    def _requests(self) -> Iterator[tuple[int, int, int]]:
        """Yields the epoch, first step and length of each remaining chunk; none crosses an epoch or a checkpoint."""
        step, every = self.taken, self.experiment.checkpoint.every_steps
        while step < self.total_steps:
            epoch, within = divmod(step, self.steps_per_epoch)
            count = min(self.experiment.training.steps_per_call, self.steps_per_epoch - within)
            if every:
                count = min(count, every - step % every)
            yield epoch, within, count
            step += count

    def _chunks(self) -> Generator[PlacedChunk, None, None]:
        """Yields the remaining chunks, which are read and copied to the devices while the steps before are computed."""
        capacity = self.experiment.training.steps_per_call
        return read_ahead(self.inputs.train, self._requests(), capacity, self.step.place)

    def _next(self, chunks: Iterator[PlacedChunk]) -> PlacedChunk | None:
        start = time.perf_counter()
        chunk = next(chunks, None)
        self.waited = time.perf_counter() - start
        return chunk

    def _take(self, chunk: PlacedChunk) -> bool:
        """Runs and logs the steps of a chunk; returns True if any worker requested a stop."""
        first, start = self.taken, time.perf_counter()
        metrics, finite = self.step.run(chunk, first, stop=self.should_stop())
        computed = time.perf_counter() - start
        columns = len(self.meters.names)
        if not finite:
            self._fail(chunk, metrics, first)
        for row in metrics:
            self.taken += 1
            self.meters.add(row[:columns].astype(np.float64))
            self.clock.add(float(row[0]), computed / len(metrics), self.waited / len(metrics))
            if self._due(self.experiment.monitor.log_every):
                self._log(float(row[-1]))
        return bool(metrics[:, columns].any())

    def _fail(self, chunk: PlacedChunk, metrics: np.ndarray, first: int) -> NoReturn:
        """Raises an error that names the non-finite values of the last step."""
        step, row = first + len(metrics), metrics[-1]
        bad = [name for name, value in zip(self.step.sums, row, strict=False) if not np.isfinite(value)]
        became = "became NaN or infinite"
        if not bad:  # the same on all workers, so all of them call `weights_at_fault`
            state = {variable.path for variable in self.step.gradient.state}
            found = self.step.weights_at_fault(chunk, len(metrics) - 1, step - 1)
            bad = [f"the new value of {name}" if name in state else f"the gradient of {name}" for name in found]
            became += ", or too large to be squared"
        what = (", ".join(bad[:MOST_NAMED]) or "the gradient") + (", ..." if bad[MOST_NAMED:] else "")
        where = f"step {step} (epoch {first // self.steps_per_epoch + 1}): {what} {became}"
        if self.recorder is None:  # only rank 0 knows the last checkpoint
            raise NonFiniteError(where)
        raise NonFiniteError(
            f"{where}; the run stopped, and checkpoints up to step {self._last_saved()} are intact; "
            "a smaller training.learning_rate may help"
        )

    def _last_saved(self) -> int:
        with suppress(VaedistError):  # the non-finite value is the more important error
            self.saver.settle()
        newest = self.store.newest()
        return newest.position.step if newest else 0

    def _log(self, gradient_norm: float) -> None:
        means = self.meters.row()
        if self.recorder is not None:
            rate = float(self.step.optimizer.schedule(self.taken - 1))
            values = {**means, "learning_rate": rate, "gradient_norm": gradient_norm, **self.clock.rates()}
            if self.model.levels is not None:
                dims = math.prod(self.model.image_shape)
                values["bits_per_dim"] = bits_per_dim(means["elbo"], dims, self.model.levels)
            if "objective" in means:
                values["kl_weight"] = float(self.step.objective.kl_weight(self.taken - 1))
            epoch = (self.taken - 1) // self.steps_per_epoch + 1
            self.recorder.train(epoch, self.taken, values)
        self.clock.reset()

    def _end_epoch(self, *, asked: bool) -> dict[str, float]:
        with averaged(self.model, self.step, self.taken):
            means = self._test()
            if self.taken == self.total_steps:  # before the last checkpoint: a resumed run does not repeat it
                self._finish()
        self._save(means["elbo"], asked=asked)
        return means

    def _test(self) -> dict[str, float]:
        """Evaluates the validation split, or the test split if there is none, and logs latents and pictures."""
        means = self.evaluator.run(self._epoch)
        train_elbo = self.meters.epoch()["elbo"]
        if not math.isfinite(means["elbo"]):
            raise NonFiniteError(
                f"epoch {self._epoch}: the {self.inputs.split} ELBO is {means['elbo']}; the weights have diverged"
            )
        best = means["elbo"] > self.best
        self.best = max(self.best, means["elbo"])
        if self.recorder is not None:
            assert self.inputs.probe is not None
            if self.importance is not None:
                means["importance_bound"] = self.importance.summary(list(self.importance.scores())).log_p.mean
            self.recorder.epoch(self._epoch, self.taken, means, train_elbo, best=best)
            self.recorder.latents(self.taken, self.model, self.inputs.probe)
            every = self.experiment.monitor.pictures_every
            if self.taken == self.total_steps or (every and self._epoch % every == 0):
                self.recorder.pictures(self._epoch, self.taken, self.model, self.inputs.probe)
        return means

    def _save(self, elbo: float | None = None, *, asked: bool) -> None:
        """Begins to save a checkpoint; `asked` is True if one was requested, of this step or a later one."""
        if self.recorder is None:
            return
        self.saver.make_room()
        self.recorder.flush()
        position = Position(
            self._epoch,
            self.taken,
            self.inputs.fingerprint,
            self.model.image_shape,
            test_elbo=elbo if self.inputs.split == "test" else None,
            meters=self.meters.state(),
            validation_elbo=elbo if self.inputs.split == "validation" else None,
            packages=self.packages,
        )
        weights, slots, notify = named_variables(self.model), named_slots(self.model, self.step), self.recorder.notify
        write = partial(
            self.store.save, position, weights, slots, self.experiment.to_toml(),
            committed=lambda place: notify(Saved(position.epoch, position.step, place, asked)),
        )  # fmt: skip
        self.saver.begin(write)

    def _restore(self, checkpoint: Checkpoint) -> None:
        position = checkpoint.position
        if position.fingerprint != self.inputs.fingerprint:
            raise RunError(
                f"the data has changed: checkpoint {checkpoint.path} was trained on data "
                f"{position.fingerprint[:12]}, and {self.experiment.data.path} is {self.inputs.fingerprint[:12]}"
            )
        if position.step > self.total_steps:
            raise RunError(
                f"checkpoint {checkpoint.path} is of step {position.step}, and training.epochs = "
                f"{self.experiment.training.epochs} ends at step {self.total_steps}"
            )
        load_variables(self.model, self.step, checkpoint)
        self.taken = position.step
        best = self.store.best()
        if best is not None and best.position.elbo is not None:
            self.best = best.position.elbo

    def _announce(self) -> None:
        if self.recorder is None:
            return
        plan = self.inputs.train.plan
        devices = self.strategy.num_replicas_in_sync
        parameters = sum(int(np.prod(w.shape)) for w in self.step.weights)
        training = self.experiment.training
        name = self.recorder.run.name
        self.recorder.notify(
            Started(name, training.epochs, plan.steps, self.taken, self.workers, devices, plan.rows, parameters)
        )

    def _finish(self) -> None:
        if self.recorder is not None:
            assert self.inputs.probe is not None
            self.recorder.finish(self.taken, self.model, self.inputs.probe)
