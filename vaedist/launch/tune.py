"""Sweeps on Ray Tune: every trial is a run of its own, trained by Ray Train.

Ray Tune places, stops and counts trials; what they are and how they went is written down by the sweep itself (see
`SweepFolder`), so that one which was killed is gone on with from there, and not from what Ray pickled some time before.
"""

import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from vaedist.config import Sweep, differences
from vaedist.errors import ConfigError, Interrupted, NonFiniteError, RunError, VaedistError
from vaedist.launch.channel import StopRequest
from vaedist.launch.claim import claimed
from vaedist.launch.cluster import describe, jobs_at_once, node_resources, ray_session, resources_per_worker
from vaedist.launch.logs import output_to
from vaedist.launch.search import Proposer, TrialSearch, Unpickled, make_proposer
from vaedist.launch.train import STOP_SECONDS, check_data, train
from vaedist.monitor.events import Event, Saved, Tested
from vaedist.monitor.sweep_events import SweepEvent, SweepNotice, SweepStarted, TrialStatus
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.sweeps import SweepFolder, Trial, TrialLog
from vaedist.sweeps.folder import ENDED
from vaedist.training.run_folder import RunFolder

FINAL = (ConfigError, NonFiniteError)  # of a trial: to try again would only repeat it
# A trial's own process only coordinates. Had it a CPU, it would keep that from the workers that it waits for; and Ray
# Tune wants it to reserve something, so it is a byte.
COORDINATOR = {"memory": 1}
REASON_LENGTH = 300  # characters, of which Ray has many more to say


@dataclass(frozen=True)
class Plan:
    """What a sweep will do on a cluster.

    Attributes:
        trials: how many are to run.
        workers: of each trial.
        resources: of each worker.
        at_once: how many trials run at once.
        cluster: what the cluster has, in words.
    """

    trials: int
    workers: int
    resources: dict[str, float]
    at_once: int
    cluster: str


def plan(sweep: Sweep, *, address: str | None = None) -> Plan:
    """What a sweep would do, from a look at the cluster.

    Args:
        sweep: nothing of it is started or written.
        address: of the Ray cluster, see `ray_session`.

    Raises:
        ClusterError: the cluster cannot be reached, or has no room for a trial.
    """
    with ray_session(address):
        return _plan(sweep)


def _plan(sweep: Sweep) -> Plan:
    most = min(sweep.tune.concurrent or sweep.trials, sweep.trials)
    resources = resources_per_worker(sweep.scaling, jobs=most)
    room = most if sweep.scaling.autoscaling else jobs_at_once(sweep.scaling, resources)
    return Plan(sweep.trials, sweep.scaling.workers, resources, min(most, room), describe(node_resources()))


def tune(
    sweep: Sweep,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    address: str | None = None,
    observe: Callable[[SweepEvent], None] = lambda _: None,
    quiet: bool = True,
) -> SweepFolder:
    """Run a sweep, or go on with one, and return its folder.

    Args:
        sweep: `run.name` must be set; its trials' runs are kept in the folder of that name.
        resume: go on with the sweep that is there: trials that ended stay as they are, others go on from their
            checkpoints. It must be the same sweep, but for how many trials and how long.
        retry_failed: when going on, try those again that failed.
        address: of the Ray cluster, see `ray_session`.
        observe: called with each event, in this thread.
        quiet: send what Ray prints to logs/ray.log in the sweep's folder instead of the terminal.

    Raises:
        VaedistError: what the user has to know; nothing was started, or what was committed stays.
        Interrupted: on KeyboardInterrupt; the sweep can be gone on with.
    """
    sweep = _absolute(sweep)
    folder = SweepFolder.of(sweep)
    if resume:
        _check_same(folder, sweep)
    elif folder.path.exists():
        raise RunError(f"sweep {folder.path} exists: --resume goes on with it, --name starts another")
    proposer = make_proposer(sweep)
    check_data(sweep.experiment({}, name="trial"))
    busy = f"sweep {folder.path} is being run by another process"
    claim = claimed(folder.path, folder.sweep, sweep.to_toml(), busy)
    with (
        claim as began,
        output_to(folder.logs / "ray.log") if quiet else nullcontext(),
        ray_session(address, dashboard=True),
    ):
        planned = _plan(sweep)
        began()
        _run(sweep, folder, planned, proposer, observe, retry_failed=retry_failed)
    return folder


def _absolute(sweep: Sweep) -> Sweep:
    """With local paths that mean the same wherever a worker runs."""
    data = sweep.data.path if "://" in sweep.data.path else str(Path(sweep.data.path).absolute())
    folder = str(Path(sweep.run.folder).absolute())
    return sweep.model_copy(
        update={
            "data": sweep.data.model_copy(update={"path": data}),
            "run": sweep.run.model_copy(update={"folder": folder}),
        }
    )


# What a sweep that is gone on with may have otherwise: how much of it there is, and where it runs.
MAY_CHANGE = ("run.", "data.path", "data.verify", "scaling.", "checkpoint.", "monitor.pictures", "monitor.log_every")
MAY_CHANGE_OF_TUNE = {"samples", "minutes", "concurrent", "retries"}


def _check_same(folder: SweepFolder, sweep: Sweep) -> None:
    before = folder.read_sweep()
    changed = [key for key, _, _ in differences(before, sweep) if not key.startswith(MAY_CHANGE)]
    old, new = (s.tune.model_dump(exclude=MAY_CHANGE_OF_TUNE) for s in (before, sweep))
    changed += [f"tune.{key}" for key in old if old[key] != new[key]]
    if changed:
        raise RunError(f"sweep {folder.path} was started with another {changed[0]}; use --name to start a new one")
    made = len(folder.read_trials())
    if sweep.trials < made:
        raise ConfigError(f"tune.samples = {sweep.trials}: the sweep at {folder.path} has {made} trials already")


def _run(
    sweep: Sweep, folder: SweepFolder, planned: Plan, proposer: Proposer, observe: Callable[[SweepEvent], None],
    *, retry_failed: bool,
) -> None:  # fmt: skip
    """Let Ray Tune run what is to be run."""
    log, settings = TrialLog.open(folder), sweep.tune
    ended = {n: t for n, t in log.trials.items() if t.state in ENDED and not (retry_failed and t.state == "failed")}
    again = [trial for number, trial in log.trials.items() if number not in ended]
    for trial in ended.values():
        proposer.learn(trial.number, trial.params, trial.best(settings.metric, settings.mode))
    search = TrialSearch(sweep, log, proposer, again)
    follower = _Follower(sweep, log, proposer, observe)
    started = tuple(follower.status(trial) for trial in ended.values())
    observe(SweepStarted(
        folder.path.name, sweep.trials, planned.at_once, sweep.training.epochs, settings.metric, settings.mode, started
    ))  # fmt: skip
    if not search.left:
        observe(SweepNotice("all trials of the sweep have ended already"))
        return
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the follower has its own
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(
                _TrialRunner, sweep=sweep.to_toml(), folder=str(folder.path), cpus=planned.resources["CPU"]
            ),
            COORDINATOR,
        ),
        tune_config=ray_tune.TuneConfig(
            metric=settings.metric,
            mode=settings.mode,
            search_alg=search,
            scheduler=_scheduler(sweep, ended.values()),
            num_samples=search.left,
            max_concurrent_trials=planned.at_once,
            trial_name_creator=lambda trial: trial.config["run"],
            trial_dirname_creator=lambda trial: f"{trial.config['run']}-{trial.trial_id}",
        ),
        run_config=ray_tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=str(folder.ray),
            failure_config=ray_tune.FailureConfig(max_failures=settings.retries),
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            callbacks=[follower],
            stop=follower.stopper(),
            verbose=0,
        ),
    )
    with follower.interruptible():
        tuner.fit()
    shutil.rmtree(folder.ray, ignore_errors=True)  # nothing reads it again
    follower.conclude()


class _TrialRunner(ray_tune.Trainable):
    """What Ray Tune runs for every trial, in a process of its own: a run on Ray Train, whose epochs are its steps."""

    def setup(self, config: dict[str, Any], sweep: str, folder: str, cpus: float) -> None:
        """Begin, from the trial's newest checkpoint if it has one."""
        self._sweep, self._folder, self._cpus = Sweep.from_toml(sweep), Path(folder), cpus
        self._results: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        self._stop = StopRequest()
        self._thread = threading.Thread(target=self._run, args=(config,), name="trial", daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """The scores of the next epoch, once it is saved."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """The run keeps its own checkpoints."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """`setup` has found the newest."""

    def cleanup(self) -> None:
        """Stop the workers, who save the step that they are at; it is over when all that they held is free."""
        self._stop.make()
        self._thread.join(STOP_SECONDS)

    def _run(self, config: dict[str, Any]) -> None:
        try:
            self._results.put(self._train(config))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._results.put(error)

    def _train(self, config: dict[str, Any]) -> dict[str, Any]:
        """Train to the end, putting up the scores of all epochs but the last, which are returned."""
        tested: dict[int, Tested] = {}
        tune, epochs = self._sweep.tune, self._sweep.training.epochs

        def observe(event: Event) -> None:
            match event:
                case Tested():
                    tested[event.epoch] = event
                case Saved() if event.epoch in tested and event.epoch < epochs:
                    self._results.put(_scores(tested.pop(event.epoch)))

        run = self._folder / config["run"]
        try:
            experiment = self._sweep.experiment(config["params"], name=run.name, folder=str(self._folder))
            scaling = experiment.scaling.model_copy(update={"cpus_per_worker": self._cpus})
            _make_way(run)
            train(
                experiment.model_copy(update={"scaling": scaling}),
                resume=run.exists(),
                observe=observe,
                stop=self._stop,
            )
        except FINAL as error:
            worst = float("-inf") if tune.mode == "max" else float("inf")
            return {"epochs": epochs, "failure": str(error), tune.metric: worst, "done": True}
        if epochs in tested:
            return {**_scores(tested[epochs]), "finished": True, "done": True}
        last = Trial(config["trial"], config["params"], RunFolder(run)).epochs[-1]  # it was at its end before
        return {"epochs": epochs, "finished": True, tune.metric: getattr(last, tune.metric), "done": True}


def _scores(test: Tested) -> dict[str, Any]:
    scores = {"elbo": test.elbo, "importance_bound": test.importance_bound, "bits_per_dim": test.bits_per_dim}
    return {"epochs": test.epoch, **{name: score for name, score in scores.items() if score is not None}}


def _make_way(run: Path) -> None:
    """Remove a run's folder in which nothing was written yet when it was killed."""
    if run.exists() and not (run / "experiment.toml").exists():
        shutil.rmtree(run)


def _scheduler(sweep: Sweep, ended: Any) -> TrialScheduler:
    """Ray Tune's scheduler, which is told of the trials that ended before."""
    settings, epochs = sweep.tune, sweep.training.epochs
    if settings.scheduler == "none":
        return FIFOScheduler()
    scheduler: TrialScheduler
    if settings.scheduler == "asha":
        scheduler = AsyncHyperBandScheduler(
            time_attr="epochs", max_t=epochs + 1, grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction, stop_last_trials=False,
        )  # fmt: skip
    else:
        scheduler = MedianStoppingRule(time_attr="epochs", grace_period=settings.grace_epochs)
    if settings.scheduler == "asha":
        scheduler.set_search_properties(settings.metric, settings.mode)
        for trial in ended:
            stand_in = SimpleNamespace(trial_id=f"ended-{trial.number}")
            scheduler.on_trial_add(None, stand_in)
            for epoch in trial.epochs:
                result = {"epochs": epoch.epoch, settings.metric: getattr(epoch, settings.metric)}
                scheduler.on_trial_result(None, stand_in, result)
        scheduler._metric = scheduler._mode = None  # for the tuner to set
    return scheduler


class _Follower(Unpickled, ray_tune.Callback):
    """Writes down and tells how trials go, and asks Ray Tune to stop.

    Args:
        sweep: that is run.
        log: what is written.
        proposer: learns how trials end.
        observe: is told.
    """

    def __init__(self, sweep: Sweep, log: TrialLog, proposer: Proposer, observe: Callable[[SweepEvent], None]) -> None:
        self._sweep, self._log, self._proposer, self._observe = sweep, log, proposer, observe
        self._metric, self._mode = sweep.tune.metric, sweep.tune.mode
        self._began = time.monotonic()
        self._interrupted = self._out_of_time = False
        self._error: VaedistError | None = None
        self._scores: dict[int, list[tuple[int, float]]] = {}

    def status(self, trial: Trial) -> TrialStatus:
        """How a trial stands, by its run's metrics as they are now."""
        trial = replace(trial)
        epochs, best = trial.epochs, trial.best(self._metric, self._mode)
        last = getattr(epochs[-1], self._metric) if epochs else None
        made = epochs[-1].epoch if epochs else 0
        return TrialStatus(trial.number, trial.params, trial.state, made, last, best, trial.reason)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial's process is up."""
        self._set(trial, "running")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """An epoch of a trial is saved."""
        if "failure" not in result:
            self._guarded(lambda: self._observe(self.status(self._log.trials[trial.config["trial"]])))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial came to its end, or was stopped."""
        result = trial.last_result or {}
        if "failure" in result:
            self._set(trial, "failed", result["failure"])
        elif result.get("finished"):
            self._set(trial, "finished")
        elif self._stopping:
            self._set(trial, "open")
        else:
            self._set(trial, "stopped")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial failed for the last time."""
        self._set(trial, "failed", _reason(trial))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial failed, and is tried again."""
        number = trial.config["trial"]
        self._observe(SweepNotice(f"trial {number:04d} failed and is tried again: {_reason(trial)}"))

    def _set(self, trial: Any, state: Any, reason: str = "") -> None:
        def change() -> None:
            number = trial.config["trial"]
            known = self._log.set(number, state, reason)
            if state in ENDED:
                score = None if state == "failed" else known.best(self._metric, self._mode)
                self._proposer.learn(number, known.params, score)
                self._write_hparams(known)
            self._observe(self.status(known))

        self._guarded(change)

    def _guarded(self, do: Callable[[], None]) -> None:
        """What goes wrong here ends the sweep, and is told as it is, not as Ray Tune would wrap it."""
        try:
            do()
        except VaedistError as error:
            self._error = self._error or error

    def _write_hparams(self, trial: Trial) -> None:
        """The trial's row in TensorBoard's HParams table, in the run of its curves."""
        if not trial.epochs:
            return
        last = trial.epochs[-1]
        metrics = {"hparam/elbo": last.elbo, "hparam/epochs": float(last.epoch)}
        for name in ("importance_bound", "bits_per_dim"):
            if (value := getattr(last, name)) is not None:
                metrics[f"hparam/{name}"] = value
        if (best := trial.best(self._metric, self._mode)) is not None:
            metrics[f"hparam/best_{self._metric}"] = best
        writer = TensorBoardWriter(trial.run.tensorboard, purge_step=None)
        writer.hparams(trial.params, metrics, step=last.step)
        writer.close()

    @property
    def _stopping(self) -> bool:
        return self._interrupted or self._out_of_time or self._error is not None

    def stopper(self) -> Any:
        """What Ray Tune asks whether all trials are to be stopped."""
        follower = self

        class Stopper(Unpickled, ray_tune.Stopper):
            def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
                return False

            def stop_all(self) -> bool:
                minutes = follower._sweep.tune.minutes
                if minutes and time.monotonic() - follower._began > 60 * minutes:
                    follower._out_of_time = True
                return follower._stopping

        return Stopper()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C stops all trials; a second one does not wait for them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(*_: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            self._observe(SweepNotice("stopping all trials; Ctrl-C again does not wait for them"))

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def conclude(self) -> None:
        """Say what is to be said at the end; trials that were running are left open.

        Raises:
            VaedistError: what ended the sweep before its time.
        """
        for trial in list(self._log.trials.values()):
            if trial.state == "running":
                self._log.set(trial.number, "open")
        if self._error is not None:
            raise self._error
        ended = sum(trial.state in ENDED for trial in self._log.trials.values())
        goes_on = f"vaedist tune --resume {os.path.relpath(self._log.folder.path)} goes on"
        if self._interrupted:
            raise Interrupted(f"{ended} of {self._sweep.trials} trials have ended; {goes_on}")
        if self._out_of_time:
            minutes = self._sweep.tune.minutes
            self._observe(SweepNotice(
                f"stopped after {minutes:g} minutes: {ended} of {self._sweep.trials} trials have ended; {goes_on}, for "
                f"longer with --set tune.minutes"
            ))  # fmt: skip


def _reason(trial: Any) -> str:
    """The last line of what a trial failed with, or as much of it as is of use."""
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines()] if trial.error_file else []
    last = next((line for line in reversed(lines) if line), "it ended by itself")
    return last if len(last) <= REASON_LENGTH else last[:REASON_LENGTH].rpartition(". ")[0] or last[:REASON_LENGTH]
