"""Copies of a run's metrics and pictures in MLflow, which is imported only if a job asks for it."""

import importlib.util
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vaedist.storage.uri import is_remote

URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = ("MLFLOW_EXPERIMENT_NAME", "vaedist")  # variable and default
LOCATION = "vaedist.run"  # tag of an MLflow run: the location of vaedist's
END_SECONDS = 60.0  # for a slow server to receive what is left at the end

Status: TypeAlias = Literal["FINISHED", "KILLED", "FAILED"]
Task: TypeAlias = Callable[["_Sender"], None]


class MlflowTracker:
    """Sends a run to MLflow in a background thread, so that a slow or missing server does not delay the training.

    A run is one MLflow run, which is found again by its location when the run is resumed. After an error, a warning is
    given, and nothing more is sent until the run is resumed.

    The server is that of MLflow's own environment variables. Without MLFLOW_TRACKING_URI, it is the database mlflow.db
    in the folder that holds the runs.

    Args:
        location: absolute path or URI of the run's folder.
        folder: path or URI of the folder that holds the runs.
        name: name of the run.
        params: hyperparameters.
        resume: True if the run is resumed.
        warn: called with a warning.
    """

    def __init__(
        self,
        *,
        location: str,
        folder: str,
        name: str,
        params: Mapping[str, object],
        resume: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._warn = warn
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._failed = threading.Event()
        open_sender = _Opening(location, folder, name, dict(params), resume)
        self._thread = threading.Thread(target=self._send, args=(open_sender,), name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Sends the finite values of a row of metrics, under kind/name."""
        now = int(1000 * time.time())
        numbers = {
            f"{kind}/{name}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        self._put(lambda sender: sender.metrics(numbers, step, now))

    def picture(self, path: Path) -> None:
        """Sends a file as an artifact in pictures/."""
        self._put(lambda sender: sender.picture(path))

    def close(self, status: Status) -> None:
        """Waits until everything is sent, at most `END_SECONDS`, and ends the MLflow run."""
        self._put(lambda sender: sender.end(status))
        self._tasks.put(None)
        self._thread.join(END_SECONDS)
        if self._thread.is_alive() and not self._failed.is_set():
            self._warn(f"MLflow did not respond within {END_SECONDS:.0f} s: the end of the run is missing there")

    def _put(self, task: Task) -> None:
        if not self._failed.is_set():
            self._tasks.put(task)

    def _send(self, opening: "_Opening") -> None:
        try:
            sender = opening.open()
            while (task := self._tasks.get()) is not None:
                task(sender)
        except Exception as error:  # noqa: BLE001 - no error of a tracker ends a training
            self._failed.set()
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            self._warn(f"MLflow failed, and gets nothing more of this run: {reason}")


class _Opening:
    """Creation or search of the MLflow run."""

    def __init__(self, location: str, folder: str, name: str, params: dict[str, object], resume: bool) -> None:
        self._location, self._folder, self._name = location, folder, name
        self._params, self._resume = params, resume

    def open(self) -> "_Sender":
        """Returns the sender to a new MLflow run, or to that of an earlier start."""
        if importlib.util.find_spec("mlflow") is None:
            raise ModuleNotFoundError("it is not installed; install vaedist with the extra mlflow")
        import mlflow

        uri, artifacts = os.environ.get(URI), None
        if not uri:
            if is_remote(self._folder):
                raise ValueError(f"set {URI}, as run.folder is on an object store")
            uri, artifacts = f"sqlite:///{self._folder}/mlflow.db", f"{self._folder}/mlflow-artifacts"
        client = mlflow.MlflowClient(tracking_uri=uri)
        title = os.environ.get(*EXPERIMENT)
        known = client.get_experiment_by_name(title)
        experiment = known.experiment_id if known else client.create_experiment(title, artifact_location=artifacts)
        found = None
        if self._resume:
            condition = f"tags.`{LOCATION}` = '{self._location}'"
            found = next(iter(client.search_runs([experiment], condition, max_results=1)), None)
        if found is not None:
            client.update_run(found.info.run_id, status="RUNNING")
            return _Sender(client, found.info.run_id)
        made = client.create_run(experiment, run_name=self._name, tags={LOCATION: self._location})
        client.log_batch(made.info.run_id, params=[mlflow.entities.Param(*map(str, p)) for p in self._params.items()])
        return _Sender(client, made.info.run_id)


class _Sender:
    """Sends to one MLflow run; all of its methods run in the tracker's thread."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._sent: dict[str, int] = {}  # last step by metric, as a resumed run repeats steps

    def metrics(self, values: Mapping[str, float], step: int, milliseconds: int) -> None:
        """Sends the values of metrics at a step, except those that were sent before the run was resumed."""
        from mlflow.entities import Metric

        new = {name: value for name, value in values.items() if step > self._last(name)}
        if new:
            batch = [Metric(name, value, milliseconds, step) for name, value in new.items()]
            self._client.log_batch(self._run_id, metrics=batch)
            self._sent |= dict.fromkeys(new, step)

    def picture(self, path: Path) -> None:
        """Sends a picture."""
        self._client.log_artifact(self._run_id, str(path), "pictures")

    def end(self, status: Status) -> None:
        """Ends the MLflow run."""
        self._client.set_terminated(self._run_id, status)

    def _last(self, name: str) -> int:
        if name not in self._sent:
            history = self._client.get_metric_history(self._run_id, name)
            self._sent[name] = max((metric.step for metric in history), default=-1)
        return self._sent[name]
