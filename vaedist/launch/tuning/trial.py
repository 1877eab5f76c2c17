"""Trial of a sweep for Ray Tune: a run on Ray Train, in a process that only coordinates it."""

import queue
import threading
from typing import Any

from ray.tune import Trainable

from vaedist.config import Sweep
from vaedist.errors import ConfigError, NonFiniteError, UserCodeError
from vaedist.launch.training.channel import StopRequest
from vaedist.launch.training.trainer import STOP_SECONDS, train
from vaedist.monitor.events import Event, Saved, Tested
from vaedist.sweeps import SweepFolder, Trial

FINAL = (ConfigError, NonFiniteError, UserCodeError)  # errors that a retry of the trial would only repeat


class TrialRunner(Trainable):
    """Ray Tune's trainable of a trial; its steps are the epochs of the run."""

    def setup(self, config: dict[str, Any], sweep: str, folder: str, cpus: float) -> None:
        """Starts or resumes the trial's run."""
        self._sweep, self._folder, self._cpus = Sweep.from_toml(sweep), SweepFolder.at(folder), cpus
        self._results: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        self._stop = StopRequest()
        self._thread = threading.Thread(target=self._run, args=(config,), name="trial", daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Returns the scores of the next epoch, once it is saved."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Saves nothing, as the run has its own checkpoints."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Loads nothing, as `setup` resumes from the run's newest checkpoint."""

    def cleanup(self) -> None:
        """Stops the workers, which save a checkpoint, and waits until their resources are free."""
        self._stop.make()
        self._thread.join(STOP_SECONDS)

    def _run(self, config: dict[str, Any]) -> None:
        try:
            self._results.put(self._train(config))
        except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
            self._results.put(error)

    def _train(self, config: dict[str, Any]) -> dict[str, Any]:
        """Trains to the end; queues the scores of all epochs but the last, and returns those of the last."""
        tested: dict[int, Tested] = {}
        tune, epochs = self._sweep.tune, self._sweep.training.epochs

        def observe(event: Event) -> None:
            match event:
                case Tested():
                    tested[event.epoch] = event
                case Saved() if event.epoch in tested and event.epoch < epochs:
                    self._results.put(_scores(tested.pop(event.epoch)))

        run = self._folder.trial(config["run"])
        try:
            experiment = self._sweep.experiment(config["params"], name=run.name, folder=self._folder.location)
            scaling = experiment.scaling.model_copy(update={"cpus_per_worker": self._cpus})
            store = run.store.patient()
            store.remove_unclaimed(run.experiment)
            run = train(
                experiment.model_copy(update={"scaling": scaling}),
                resume=store.exists(),
                changed_code=True,
                observe=observe,
                stop=self._stop,
                trial=True,
            )
        except FINAL as error:
            worst = float("-inf") if tune.mode == "max" else float("inf")
            return {"epochs": epochs, "failure": " ".join(str(error).split()), tune.metric: worst, "done": True}
        if epochs in tested:
            return {**_scores(tested[epochs]), "finished": True, "done": True}
        last = Trial(config["trial"], config["params"], run).epochs[-1]  # the run had already finished
        return {"epochs": epochs, "finished": True, tune.metric: getattr(last, tune.metric), "done": True}


def _scores(test: Tested) -> dict[str, Any]:
    scores = {"elbo": test.elbo, "importance_bound": test.importance_bound, "bits_per_dim": test.bits_per_dim}
    return {"epochs": test.epoch, **{name: score for name, score in scores.items() if score is not None}}
