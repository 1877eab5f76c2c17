"""A run in MLflow, in a real database."""

import subprocess
import sys

import pytest

from vaedist.monitor import mlflow_tracker
from vaedist.monitor.mlflow_tracker import MlflowTracker

pytestmark = pytest.mark.slow  # importing MLflow and creating its database takes seconds


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def track(place, warned, **changes):
    options = {"location": f"{place}/run", "folder": str(place), "name": "run", "params": {"seed": 0}, "resume": False}
    return MlflowTracker(**options | changes, warn=warned.append)


def found(place):
    """Returns the MLflow runs, and their client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    return client, client.search_runs([client.get_experiment_by_name("vaedist").experiment_id])


def test_a_resumed_run_continues_its_mlflow_run_without_repeating_steps(place):
    warned, picture = [], place / "samples-epoch-0001.png"
    picture.write_bytes(b"picture")
    tracker = track(place, warned)
    for step in (10, 20):
        tracker.metrics("train", step, {"elbo": -float(step), "kl": float("nan"), "best": True})
    tracker.close("KILLED")
    tracker = track(place, warned, resume=True)
    for step in (20, 30):
        tracker.metrics("train", step, {"elbo": -float(step)})
    tracker.metrics("test", 30, {"elbo": -31.0})
    tracker.picture(picture)
    tracker.close("FINISHED")
    assert warned == []
    client, (run,) = found(place)
    assert (run.info.run_name, run.info.status, run.data.params) == ("run", "FINISHED", {"seed": "0"})
    assert run.data.metrics == {"train/elbo": -30.0, "test/elbo": -31.0}
    history = client.get_metric_history(run.info.run_id, "train/elbo")
    assert sorted((metric.step, metric.value) for metric in history) == [(10, -10.0), (20, -20.0), (30, -30.0)]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "pictures")] == [f"pictures/{picture.name}"]


def test_a_run_that_is_started_anew_is_another_one(place):
    for _ in range(2):
        track(place, []).close("FINISHED")
    assert len(found(place)[1]) == 2


def test_an_unreachable_server_is_one_warning(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warned = []
    tracker = track(place, warned)
    for step in range(100):
        tracker.metrics("train", step, {"elbo": 0.0})
    tracker.close("FINISHED")
    assert len(warned) == 1
    assert warned[0].startswith("MLflow failed, and gets nothing more of this run: ")
    assert "\n" not in warned[0]


def test_a_server_that_hangs_does_not_hold_up_the_end(place, monkeypatch):
    import threading

    hanging = threading.Event()
    monkeypatch.setattr(mlflow_tracker, "END_SECONDS", 0.1)
    monkeypatch.setattr(mlflow_tracker._Opening, "open", lambda self: hanging.wait())
    warned = []
    track(place, warned).close("FINISHED")
    hanging.set()
    assert len(warned) == 1
    assert "did not respond" in warned[0]


def test_without_mlflow_there_is_a_warning(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    warned = []
    track(place, warned).close("FINISHED")
    assert "install vaedist with the extra mlflow" in warned[0]


def test_a_run_on_a_store_needs_a_server(place):
    warned = []
    track(place, warned, folder="s3://bucket/runs").close("FINISHED")
    assert "set MLFLOW_TRACKING_URI" in warned[0]


def test_mlflow_is_not_imported_unless_a_job_asks_for_it():
    code = "import sys, vaedist.training.run_logger; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
