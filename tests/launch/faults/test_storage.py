"""Runs and sweeps on an S3 server that answers slowly, is busy, or is temporarily unavailable."""

import itertools
import json
import os
import signal
import threading

import numpy as np
import pytest

from vaedist.api import load_run
from vaedist.config import Sweep
from vaedist.errors import Interrupted, RunError
from vaedist.launch.training.trainer import train
from vaedist.launch.tuning.sweep import tune
from vaedist.monitor.events import Finished, Notice, Progress, Saved, Started
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint import MARKER
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.evaluations import save_evaluation
from vaedist.runs.summary import list_runs, summarize
from vaedist.storage.transfer import Store
from vaedist.sweeps import SweepFolder
from vaedist.sweeps.report import best_trial, write_report

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def there(s3, blob_data):
    """Prepares the data of `blob_data` on the server."""
    store = Store(s3.uri("data/blobs"))
    if not store.files():
        for path in blob_data.iterdir():
            store.upload(path, path.name)
    return store.uri


def checkpoints(store):
    """Returns the names of the checkpoints on the store, including uncommitted ones."""
    files = store.files("checkpoints")
    names = {name.split("/")[1] for name in files}
    return names, {name for name in names if f"checkpoints/{name}/{MARKER}" in files}


def test_a_run_on_a_store_that_fails_ends_as_one_on_a_disk(s3, there, experiment):
    two = experiment.with_overrides("scaling.workers=2", "training.epochs=4", "monitor.log_every=10")
    expected = train(two.with_overrides("run.name=undisturbed"))

    remote = two.with_overrides(f"run.folder={s3.uri('runs')}", f"data.path={there}")
    requests = itertools.count()
    s3.proxy.delay = 0.02
    s3.proxy.refuse = lambda method, path: next(requests) % 20 == 7
    refused = []

    def interrupt(event):
        if isinstance(event, Started):
            with pytest.raises(RunError, match="being trained by another process") as error:
                train(remote, resume=True)
            refused.append(error)
        if isinstance(event, Progress) and event.step == 50:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped at step \d+ of 400, which is saved"):
        train(remote, observe=interrupt)
    assert refused
    store = Store(s3.uri("runs/run"))
    names, committed = checkpoints(store)
    assert names == committed
    with pytest.raises(RunError, match=r"run s3://bucket/runs/run\?.* exists: use --resume"):
        train(remote)

    s3.put(f"runs/run/checkpoints/{max(names)[:-1]}9/weights.safetensors", b"a writer that was killed left this")
    events = []

    def outage(event):
        events.append(event)
        if isinstance(event, Progress) and event.step == 200:
            s3.proxy.vanish()
            threading.Timer(4, s3.proxy.appear).start()

    run = train(remote, resume=True, observe=outage)
    s3.proxy.delay, s3.proxy.refuse = 0.0, lambda method, path: False
    assert any(isinstance(event, Notice) and "trying again" in event.text for event in events)
    assert [event.step for event in events if isinstance(event, Saved)][-1] == 400
    assert isinstance(events[-1], Finished)
    assert run.location == store.uri
    names, committed = checkpoints(store)
    assert names == committed
    assert len(names) <= 3
    theirs, ours = CheckpointStore(expected).newest(), load_run(run.location, checkpoint="newest").checkpoint
    assert ours.position.step == 400
    for part in ("weights", "optimizer"):
        a, b = getattr(theirs, part)(), getattr(ours, part)()
        assert all(np.array_equal(a[name], b[name]) for name in a), part
    rows, undisturbed = read_metrics(run.metrics), read_metrics(expected.metrics)
    assert [(r["kind"], r["step"], r["elbo"]) for r in rows] == [(r["kind"], r["step"], r["elbo"]) for r in undisturbed]
    files = store.files()
    assert {"experiment.toml", "metrics.jsonl", "logs/ray.log", "pictures/samples.png"} <= set(files)
    assert sum(name.startswith("tensorboard/events.out.tfevents.") for name in files) == 2
    fetched = [path for method, path in s3.proxy.requests if method == "GET" and ".arrow" in path]
    assert len(fetched) >= 16
    assert len(set(fetched)) == 16

    opened = load_run(run.location)
    record = opened.evaluate(samples=2, limit=32).to_dict() | {"step": opened.checkpoint.position.step}
    path = save_evaluation(opened.folder, "test-k2", record["step"], record)
    assert json.loads(store.read(f"evaluations/{path.name}"))["step"] == record["step"]
    assert [summarize(folder).epoch for folder in list_runs(s3.uri("runs"))] == [4]


def test_a_sweep_on_a_store(s3, there, experiment):
    tables = experiment.model_dump(exclude_none=True)
    tables["run"] |= {"name": "sweep", "folder": s3.uri("sweeps")}
    tables["data"] |= {"path": there}
    tables["training"] |= {"epochs": 1}
    tables["tune"] = {"search": "grid", "scheduler": "none", "space": {"model.flow.depth": {"grid": [0, 1]}}}
    sweep = Sweep.from_dict(tables)
    events = []
    assert tune(sweep, observe=events.append).location == s3.uri("sweeps/sweep")
    folder = SweepFolder.at(s3.uri("sweeps/sweep"))
    folder.refresh()
    trials = folder.read_trials()
    assert [trial.state for trial in trials] == ["finished", "finished"]
    assert all(len(trial.epochs) == 1 for trial in trials)
    write_report(folder)
    files = Store(folder.location).files()
    name = best_trial(folder).name
    assert {"sweep.toml", "trials.jsonl", "report.md", "plots/curves.png", f"{name}/metrics.jsonl"} <= set(files)
    assert sum(name in file and "tfevents" in file for file in files) == 2  # one of the run, one of hyperparameters
    assert load_run(Store(folder.location).uri_of(name)).checkpoint.position.step == 100
    more = sweep.model_copy(update={"training": sweep.training})
    with pytest.raises(RunError, match=r"sweep s3://.* exists"):
        tune(sweep)
    tune(more, resume=True, observe=events.append)  # all have ended
    folder.refresh()
    assert len(folder.read_trials()) == 2
