"""Faults on one machine with a local Ray: workers hang, their supervisor dies, the disk is full."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from board import Board
from disks import fill, mounted

from vaedist.errors import DataError, Interrupted, RunError, StorageError, WorkerError
from vaedist.launch.training.trainer import HANGING_SECONDS, train
from vaedist.monitor.events import Notice, Progress, Started
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("cluster")


def at_step(step, act):
    """Returns an observer that acts once, at a step, and keeps the events in its list `seen`."""

    def observe(event):
        observe.seen.append(event)
        if isinstance(event, Progress) and event.step >= step and not observe.acted:
            observe.acted = True
            act()

    observe.seen, observe.acted = [], False
    return observe


def check_same(run, undisturbed):
    """Asserts bitwise equal weights and optimizer state, and that each row and each TensorBoard step occurs once."""
    ours, theirs = (CheckpointStore(one).newest() for one in (run, undisturbed))
    assert ours.position.step == theirs.position.step
    for part in ("weights", "optimizer"):
        a, b = getattr(ours, part)(), getattr(theirs, part)()
        assert all(np.array_equal(a[name], b[name]) for name in b), part
    rows, expected = read_metrics(run.metrics), read_metrics(undisturbed.metrics)
    assert [(r["kind"], r["step"], r["elbo"]) for r in rows] == [(r["kind"], r["step"], r["elbo"]) for r in expected]
    for kind in ("train", "test"):
        events = Board(run.tensorboard / kind).curve("elbo")
        assert events == [(r["step"], np.float32(r["elbo"])) for r in expected if r["kind"] == kind]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_hangs_is_found_and_replaced(two, undisturbed, processes, rank):
    stopped, times = [], []

    def stop():
        stopped.append(processes("RayTrainWorker")[rank])
        stopped[0].send_signal(signal.SIGSTOP)
        times.append(time.monotonic())

    def observe(event):
        if isinstance(event, Started):
            times.append(time.monotonic())
        inner(event)

    inner = at_step(75, stop)
    run = train(two.with_overrides(f"run.name=hanging-{rank}"), observe=observe)
    assert len(times) == 3
    assert times[2] - times[1] < 3 * HANGING_SECONDS  # detected, and restarted
    assert any(isinstance(event, Notice) and "restarting from" in event.text for event in inner.seen)
    assert not stopped[0].is_running()
    check_same(run, undisturbed)


def test_a_killed_controller_is_reported_and_its_run_can_be_resumed(two, undisturbed, processes):
    experiment = two.with_overrides("run.name=controller")
    with pytest.raises(WorkerError, match=r"the process that supervises the workers died.*--resume") as error:
        train(experiment, observe=at_step(150, lambda: processes("TrainController")[-1].kill()))
    assert str(error.value).isprintable()
    deadline = time.monotonic() + 60
    while processes("RayTrainWorker") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes("RayTrainWorker")
    check_same(train(experiment, resume=True), undisturbed)


def test_rays_records_of_a_run_are_never_used(two, undisturbed, tmp_path):
    """The cases are a truncated snapshot, which Ray overwrites in place, and one whose paths lead elsewhere."""
    experiment = two.with_overrides("run.name=snapshot")
    with pytest.raises(Interrupted, match="stopped"):
        train(experiment, observe=at_step(150, lambda: os.kill(os.getpid(), signal.SIGINT)))
    run = RunFolder.of(experiment)
    kept = [path for path in (run.path / "ray").rglob("*") if path.is_file()]
    elsewhere = tmp_path / "elsewhere"
    for number, path in enumerate(kept):
        path.write_bytes([b"", path.read_bytes()[:5], b'{"checkpoint_dir_name": "../../../elsewhere"}'][number % 3])
    for folder in {path.parent for path in kept} or {run.path / "ray"}:
        (folder / "checkpoint_manager_snapshot.json").write_text(f'{{"checkpoint_dir_name": "{elsewhere}"}}')
    check_same(train(experiment, resume=True), undisturbed)
    assert not elsewhere.exists()


def test_changed_data_is_refused_by_name(two, blob_data, tmp_path):
    data = tmp_path / "blobs"
    shutil.copytree(blob_data, data)
    experiment = two.with_overrides("run.name=data", f"data.path={data}")
    with pytest.raises(Interrupted, match="stopped"):
        train(experiment, observe=at_step(100, lambda: os.kill(os.getpid(), signal.SIGINT)))
    manifest = data / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"blobs"', '"other"'))
    with pytest.raises(RunError, match=r"was trained on data .*: resume it with the data that it was started with"):
        train(experiment, resume=True)
    shutil.copy(blob_data / "manifest.json", manifest)
    shard = next(data.rglob("train*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=shard.name):
        train(experiment, resume=True)


def fails_once_and_goes_on(experiment, act, mend, reason, undisturbed):
    """A run whose storage fails ends at once; after the repair it is resumed, and has the same result."""
    observe = at_step(150, act)
    with pytest.raises(StorageError, match=reason) as error:
        train(experiment, observe=observe)
    assert str(error.value).isprintable()
    assert sum(isinstance(event, Started) for event in observe.seen) == 1  # a restart would not help
    assert not any(isinstance(event, Notice) and "restarting from" in event.text for event in observe.seen)
    run = RunFolder.of(experiment)
    before = CheckpointStore(run).newest(pytest.fail).position.step
    assert 100 <= before < 600
    mend()
    check_same(train(experiment, resume=True), undisturbed)


def test_a_disk_that_is_full(two, undisturbed, small_disk):
    experiment = two.with_overrides("run.name=disk", f"run.folder={small_disk}")
    fails_once_and_goes_on(
        experiment, partial(fill, small_disk), Path(small_disk, "filler").unlink, "No space left on device", undisturbed
    )


def test_a_store_that_becomes_read_only(two, undisturbed):
    experiment = two.with_overrides("run.name=readonly")
    checkpoints = RunFolder.of(experiment).checkpoints
    with ExitStack() as mounts:

        def protect():  # a separate folder, because files open for writing keep a file system writable
            mounts.enter_context(mounted(checkpoints, "--bind", str(checkpoints)))
            subprocess.run(["mount", "-o", "remount,ro,bind", str(checkpoints)], check=True)

        fails_once_and_goes_on(experiment, protect, mounts.close, "Read-only file system", undisturbed)
