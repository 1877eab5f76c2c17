"""Monitoring of a sweep's trials in Ray Tune: logs and reports their states, and stops the sweep."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper

from vaedist.config import Sweep
from vaedist.errors import Interrupted, VaedistError
from vaedist.launch.tuning.search import Proposer, Unpickled
from vaedist.monitor.sweep_events import ENDED, State, SweepEvent, SweepNotice, TrialStatus
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.sweeps import Trial, TrialLog

REASON_LENGTH = 300  # characters; Ray's messages are much longer


class SweepMonitor(Unpickled, Callback):
    """Ray Tune's callback for every trial of a sweep.

    Args:
        sweep: the sweep.
        log: log of its trials, which the monitor writes.
        proposer: receives the scores of ended trials.
        observe: called with each event.
    """

    def __init__(self, sweep: Sweep, log: TrialLog, proposer: Proposer, observe: Callable[[SweepEvent], None]) -> None:
        self._sweep, self._log, self._proposer, self._observe = sweep, log, proposer, observe
        self._metric, self._mode = sweep.tune.metric, sweep.tune.mode
        self._began = time.monotonic()
        self._interrupted = self._out_of_time = False
        self._error: VaedistError | None = None

    def status(self, trial: Trial, *, until: int | None = None) -> TrialStatus:
        """Returns the status of a trial from its run's current metrics, or from those up to epoch `until`."""
        trial = replace(self._fetched(trial), until=trial.until if until is None else until)
        epochs, best = trial.epochs, trial.best(self._metric, self._mode)
        last = getattr(epochs[-1], self._metric) if epochs else None
        made = epochs[-1].epoch if epochs else 0
        return TrialStatus(trial.number, trial.params, trial.state, made, last, best, trial.reason or trial.fault)

    def _fetched(self, trial: Trial) -> Trial:
        """Returns a trial with its run's current metrics."""
        if trial.state != "open":
            trial.run.patient().refresh()
        return replace(trial)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Logs that a trial's process has started."""
        self._set(trial, "running")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Reports an epoch that is saved; the run may be epochs ahead of Ray Tune."""
        if "failure" not in result:
            known = self._log.trials[trial.config["trial"]]
            self._guarded(lambda: self._observe(self.status(known, until=result["epochs"])))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Logs that a trial has finished or was stopped."""
        result = trial.last_result or {}
        if "failure" in result:
            self._set(trial, "failed", result["failure"])
        elif result.get("finished"):
            self._set(trial, "finished")
        elif self._stopping:
            self._set(trial, "open")
        else:
            self._set(trial, "stopped", until=result.get("epochs"))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Logs that a trial has failed for the last time."""
        self._set(trial, "failed", _reason(trial))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Reports that a trial has failed and is retried."""
        number = trial.config["trial"]
        self._observe(SweepNotice(f"trial {number:04d} failed and is retried: {_reason(trial)}"))

    def _set(self, trial: Any, state: State, reason: str = "", until: int | None = None) -> None:
        def change() -> None:
            number = trial.config["trial"]
            known = self._fetched(self._log.set(number, state, reason, until))
            if state in ENDED:
                score = None if state == "failed" else known.best(self._metric, self._mode)
                self._proposer.learn(number, known.params, score)
                self._write_hparams(known)
            self._observe(self.status(known))

        self._guarded(change)

    def _guarded(self, do: Callable[[], None]) -> None:
        """Stores an error, which ends the sweep; `conclude` raises it, without the wrapping of Ray Tune."""
        try:
            do()
        except VaedistError as error:
            self._error = self._error or error

    def _write_hparams(self, trial: Trial) -> None:
        """Writes the trial's row of TensorBoard's HParams table to the run with its curves.

        The scores are points of their own, as a stopped trial may have curves beyond the last epoch that counts.
        """
        if not trial.epochs:
            return
        last = trial.epochs[-1]
        of = "" if last.split == "test" else f"_{last.split}"
        scores = {f"hparam/elbo{of}": last.elbo, "hparam/epochs": float(last.epoch)}
        for name in ("importance_bound", "bits_per_dim"):
            if (value := getattr(last, name)) is not None:
                scores[f"hparam/{name}{of}"] = value
        if (best := trial.best(self._metric, self._mode)) is not None:
            scores[f"hparam/best_{self._metric}{of}"] = best
        run = trial.run.patient()
        events = [path.name for path in run.files_in(run.tensorboard)]
        writer = TensorBoardWriter(run.tensorboard, purge_step=None, after=events)
        writer.hparams(trial.params, [("", tag) for tag in scores])
        writer.scalars(last.step, scores)
        writer.end_hparams()
        writer.close()

    @property
    def _stopping(self) -> bool:
        return self._interrupted or self._out_of_time or self._error is not None

    def stopper(self) -> Any:
        """Returns the object that Ray Tune asks whether to stop all trials."""
        monitor = self

        class Stop(Unpickled, Stopper):
            def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
                return False

            def stop_all(self) -> bool:
                minutes = monitor._sweep.tune.minutes
                if minutes and time.monotonic() - monitor._began > 60 * minutes:
                    monitor._out_of_time = True
                return monitor._stopping

        return Stop()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Stops all trials on Ctrl-C, SIGTERM and SIGHUP; a second Ctrl-C or SIGTERM does not wait for them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, _: Any) -> None:
            if self._interrupted and number == signal.SIGHUP:  # both the kernel and the shell send it for one terminal
                return
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            self._observe(SweepNotice("stopping all trials; Ctrl-C again does not wait for them"))

        taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {
            number: signal.signal(number, interrupt)
            for number in taken
            if signal.getsignal(number) is not signal.SIG_IGN  # set by `nohup`, for example
        }
        try:
            yield
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def conclude(self) -> None:
        """Reports the end of the sweep; trials that were running are left open.

        Raises:
            VaedistError: the error that ended the sweep early.
        """
        for trial in list(self._log.trials.values()):
            if trial.state == "running":
                self._log.set(trial.number, "open")
        if self._error is not None:
            raise self._error
        ended = sum(trial.state in ENDED for trial in self._log.trials.values())
        resume = f"vaedist tune --resume {self._log.folder.store.display()} resumes the sweep"
        if self._interrupted:
            raise Interrupted(f"{ended} of {self._sweep.trials} trials have ended; {resume}")
        if self._out_of_time:
            minutes = self._sweep.tune.minutes
            self._observe(SweepNotice(
                f"stopped after {minutes:g} minutes: {ended} of {self._sweep.trials} trials have ended; {resume}, with "
                f"more time by --set tune.minutes"
            ))  # fmt: skip


def _reason(trial: Any) -> str:
    """Returns the last line of a trial's error, shortened if it is long."""
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines()] if trial.error_file else []
    last = next((line for line in reversed(lines) if line), "it ended without an error message")
    return last if len(last) <= REASON_LENGTH else last[:REASON_LENGTH].rpartition(". ")[0] or last[:REASON_LENGTH]
