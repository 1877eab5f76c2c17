"""Training through Ray Train, with real workers and real strategies."""

import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray
from board import Board
from pages import DOCS, fences

from vaedist.api import load_run
from vaedist.errors import ClusterError, Interrupted, NonFiniteError, RunError, WorkerError
from vaedist.launch.training.backend import TensorflowCluster
from vaedist.launch.training.channel import open_channel
from vaedist.launch.training.trainer import train
from vaedist.monitor.events import Finished, Notice, Progress, Saved, Started, Tested
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def weights(run):
    return CheckpointStore(run).newest().weights()


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@dataclass(frozen=True)
class Resumed:
    """A run that was interrupted once: the step, the message, and the step at which it resumed."""

    run: RunFolder
    stopped: int
    said: str
    start: int


@pytest.fixture(scope="module")
def resumed(two):
    two, events, later = two.with_overrides("run.name=resumed"), [], []

    def interrupt(event):
        events.append(event)
        if isinstance(event, Progress) and event.step >= 40 and not any(isinstance(e, Notice) for e in events):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as said:
        train(two, observe=interrupt)
    stopped = CheckpointStore(RunFolder.of(two)).newest().position.step
    run = train(two, resume=True, observe=later.append)
    return Resumed(run, stopped, str(said.value), next(e.start_step for e in later if isinstance(e, Started)))


@pytest.mark.slow
def test_one_worker_two_workers_and_two_devices_compute_the_same(experiment, capfd):
    short = experiment.with_overrides("training.epochs=1", "monitor.log_every=1", "training.global_batch=30")
    ways = {
        "one": (),
        "two": ("scaling.workers=2",),
        "split": ("scaling.logical_devices=2", "scaling.cpus_per_worker=2"),
    }
    rows = {}
    for name, overrides in ways.items():
        run = train(short.with_overrides(f"run.name={name}", *overrides))
        rows[name] = read_metrics(run.metrics)
        assert f"run {name}: " in capfd.readouterr().err  # progress, without `observe`
    steps = -(-1600 // 30)
    assert [row["step"] for row in rows["one"]] == [*range(1, steps + 1), steps]
    for other in ("two", "split"):
        assert len(rows[other]) == len(rows["one"])
        for a, b in zip(rows["one"], rows[other], strict=True):
            assert a["kind"] == b["kind"]
            for key in ("elbo", "reconstruction", "kl", "log_det_1", "gate_2"):
                assert b[key] == pytest.approx(a[key], rel=1e-4), (other, a["step"], key)


def test_a_run_reports_events_and_leaves_its_folder(trained):
    events, run = trained.events, trained.run
    kinds = [type(event) for event in events]
    assert kinds.index(Started) < kinds.index(Progress) < kinds.index(Tested) < kinds.index(Finished)
    assert [event.step for event in events if isinstance(event, Tested)] == [100, 200]
    assert [event.step for event in events if isinstance(event, Saved)] == [30, 60, 90, 100, 120, 150, 180, 200]
    assert events[-1].step == 200
    assert {path.name for path in run.path.iterdir()} >= {
        "experiment.toml", "metrics.jsonl", "tensorboard", "checkpoints", "pictures", "logs",
    }  # fmt: skip
    assert run.read_experiment() == trained.experiment
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(5, 201, 5))
    assert all(row["images_per_second"] > 0 for row in rows if row["kind"] == "train")  # several rows per call
    tests = [row["elbo"] for row in rows if row["kind"] == "test"]
    assert tests[1] > tests[0]
    assert [row["rows"] for row in rows if row["kind"] == "test"] == [96, 96]
    for name in ("reconstructions.png", "samples.png", "interpolations.png"):
        assert (run.pictures / name).stat().st_size > 100
    evaluated = load_run(run.path, checkpoint="newest").evaluate(samples=16)
    assert evaluated.elbo.mean == pytest.approx(tests[1], abs=0.5)


def test_the_documented_uses_of_a_trained_run_work(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for name in ("cifar10-iaf", "cifar10-vae"):
        Path("runs", name).symlink_to(trained.run.path)
    one, two, _ = fences(DOCS / "python-api.md", "python")
    names = {}
    exec(one, names)
    assert names["samples"].shape == (64, *names["images"].shape[1:])
    exec(two, names)
    assert names["result"].scores.elbo.shape == (96,)


@pytest.mark.slow
def test_a_completed_run_is_resumed_only_unchanged(trained, experiment):
    shutil.copytree(trained.run.path, RunFolder.of(experiment).path)
    with pytest.raises(RunError, match="exists: use --resume"):
        train(experiment)
    with pytest.raises(RunError, match=r"model\.latent = 6, and the job says 7"):
        train(experiment.with_overrides("model.latent=7"), resume=True)
    with pytest.raises(RunError, match=r"has completed 2 epochs, and the job says training\.epochs = 1"):
        train(experiment.with_overrides("training.epochs=1"), resume=True)
    events = []
    train(experiment, resume=True, observe=events.append)
    assert [type(event) for event in events] == [Notice], "it was complete"
    assert trained.run.read_experiment() == RunFolder.of(experiment).read_experiment().with_overrides(
        f"run.folder={trained.experiment.run.folder}"
    )
    longer = train(experiment.with_overrides("training.epochs=3"), resume=True)
    assert longer.read_experiment().training.epochs == 3
    assert [row["step"] for row in read_metrics(longer.metrics) if row["kind"] == "test"] == [100, 200, 300]


def test_a_run_recovers_when_workers_are_killed(two, undisturbed, processes):
    killed, events = [], []

    def kill(event):
        events.append(event)
        at = {0: 75, 1: 140}.get(len(killed))  # in the middle of an epoch, and not at a checkpoint
        if isinstance(event, Progress) and at is not None and event.step >= at:
            killed.append(processes("RayTrainWorker")[-1 if killed else 0])
            killed[-1].kill()

    # One failure is allowed, and two occur, but not within 0.4 s, and with checkpoints in between.
    run = train(
        two.with_overrides("run.name=killed", "scaling.max_failures=1", "scaling.failure_window_hours=0.0001"),
        observe=kill,
    )
    assert len(killed) == 2
    starts = [event.start_step for event in events if isinstance(event, Started)]
    assert len(starts) == 3
    assert starts[0] == 0
    assert starts[1] >= 60
    assert starts[2] >= 120
    assert all(start % 30 == 0 or start % 100 == 0 for start in starts)  # at a checkpoint
    assert events[-1].step == 600
    assert same(weights(run), weights(undisturbed))
    rows, expected = read_metrics(run.metrics), read_metrics(undisturbed.metrics)
    assert [(r["kind"], r["step"]) for r in rows] == [(r["kind"], r["step"]) for r in expected]
    assert [r["elbo"] for r in rows] == [r["elbo"] for r in expected]


@pytest.mark.slow
def test_a_run_whose_workers_fail_too_often_ends_and_the_message_has_the_time(experiment, processes):
    killed, events = [], []

    def kill(event):
        events.append(event)
        if isinstance(event, Started):
            killed.append(processes("RayTrainWorker")[-1])
            killed[-1].kill()

    long = experiment.with_overrides("training.epochs=500", "scaling.max_failures=1")
    with pytest.raises(WorkerError) as error:
        train(long, observe=kill)
    assert len(killed) == 2
    assert re.match(
        r"the workers failed 2 times within \d+ (s|min); scaling.max_failures = 1 in scaling.failure_window_hours = 1; "
        r"last: \S.*see .*ray\.log; --resume, in Python resume=True, continues from the newest checkpoint$",
        str(error.value),
    )


def test_ctrl_c_saves_the_step_and_a_resumed_run_reaches_the_same_weights(resumed, undisturbed):
    assert 40 <= resumed.stopped < 600
    assert resumed.said.startswith(f"stopped at step {resumed.stopped} of 600, which is saved")
    assert resumed.start == resumed.stopped
    assert same(weights(resumed.run), weights(undisturbed))


@pytest.mark.slow
def test_a_diverging_run_names_the_cause_and_is_not_restarted(experiment):
    events = []
    with pytest.raises(NonFiniteError, match=r"step \d+ \(epoch 1\): .*elbo.* became NaN or infinite"):
        train(experiment.with_overrides("training.learning_rate=10.0", "monitor.log_every=1"), observe=events.append)
    assert sum(isinstance(event, Started) for event in events) == 1
    run = Path(experiment.run.folder, "run")
    assert all(np.isfinite(row["elbo"]) for row in read_metrics(run / "metrics.jsonl"))


def test_a_job_larger_than_the_cluster_is_refused_and_leaves_nothing(experiment):
    with pytest.raises(ClusterError, match=r"no room for the job: scaling.workers = 3, each of 1 CPU.* 2 CPU"):
        train(experiment.with_overrides("scaling.workers=3"))
    assert not Path(experiment.run.folder, "run").exists()


def test_a_run_that_is_being_trained_is_refused(trained):
    assert "being trained by another process" in trained.refused


def test_tensorboard_reads_each_step_once_after_a_resume(resumed):
    run = resumed.run
    folders = {name: run.tensorboard / name for name in (".", "train", "test")}
    boards = {name: Board(folder) for name, folder in folders.items()}
    tags = {name: board.tags() for name, board in boards.items()}
    assert {"pictures/reconstructions", "pictures/samples", "pictures/interpolations"} <= boards["."].tags("images")
    assert not tags["."]
    assert {
        "elbo", "reconstruction", "kl", "model/log_det_2", "model/gate_1", "optimizer/gradient_norm",
        "optimizer/learning_rate", "throughput/images_per_second", "throughput/input_wait",
    } <= tags["train"]  # fmt: skip
    assert {"elbo", "reconstruction", "kl", "model/gate_1", "latent/active_units"} <= tags["test"]
    assert "latent/kl_per_unit" in boards["test"].tags("histograms")
    steps = {"train": range(5, 601, 5), "test": range(100, 601, 100)}
    for kind, expected in steps.items():
        logged = [(row["step"], row["elbo"]) for row in read_metrics(run.metrics) if row["kind"] == kind]
        shown = boards[kind].curve("elbo")
        assert [step for step, _ in shown] == [step for step, _ in logged] == list(expected)
        assert [value for _, value in shown] == pytest.approx([elbo for _, elbo in logged], rel=1e-5)


def test_two_workers_that_find_no_port_end_the_run(tmp_path):
    """A restart would not free a port, so there is none, and the error has one line."""
    told = "no port of scaling.ports = [20000, 20001] is free on here, and each worker needs one"

    @ray.remote
    def find_none():
        raise ClusterError(told)

    class Group:
        def __len__(self):
            return 2

        def execute_async(self, function, **options):
            return []

        def execute(self, function, **options):
            return ray.get([find_none.remote()])

    channel = open_channel()
    config = TensorflowCluster(str(tmp_path), channel)
    config.backend_cls().on_start(Group(), config)
    error = ray.get(channel.error.remote())
    assert type(error) is ClusterError
    assert str(error) == told
    ray.kill(channel)


def test_two_workers_train_by_the_importance_weighted_bound(experiment):
    run = train(
        experiment.with_overrides(
            "objective.samples=5", "objective.gradient=dreg", "scaling.workers=2", "training.epochs=1",
            "training.global_batch=160", "monitor.importance_samples=5",
        )
    )  # fmt: skip
    rows = read_metrics(run.metrics)
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == [5, 10]
    assert all(row["elbo"] < row["objective"] < row["elbo"] + 50 for row in trained)
    assert trained[1]["objective"] > trained[0]["objective"]
    (tested,) = [row for row in rows if row["kind"] == "test"]
    assert tested["elbo"] < tested["importance_bound"]
