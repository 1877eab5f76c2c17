"""Checkpoints of a run on an S3 server: committed, pruned, resumed from, damaged, half-written."""

import contextlib

import numpy as np
import pytest

from vaedist.errors import CheckpointError, StorageError
from vaedist.monitor.events import Notice
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.runs.checkpoint import MARKER, Position
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.evaluations import save_evaluation
from vaedist.runs.folder import RunFolder
from vaedist.runs.workspace import workspace
from vaedist.storage.transfer import Store

FINGERPRINT = "f" * 64


@pytest.fixture
def run(s3, request):
    return RunFolder.at(s3.uri("remote/" + request.node.name.replace("[", "-").rstrip("]")))


def save(store, step, elbo=None, committed=lambda place: None):
    weights = {"w": np.full((2, 3), step, np.float32)}
    position = Position(step // 10, step, FINGERPRINT, (4, 6, 3), elbo)
    store.save(position, weights, {"m/w": weights["w"]}, "seed = 0\n", committed=committed)


def event_files(run):
    return [path.name for path in run.files_in(run.tensorboard)]


def on_store(run):
    """Returns the checkpoints on the store, with True for committed ones."""
    files = Store(run.location).files("checkpoints")
    names = {name.split("/")[1] for name in files}
    return {name: f"checkpoints/{name}/{MARKER}" in files for name in names}


def test_checkpoints_are_committed_and_pruned_on_the_store_as_they_are_here(run):
    said = []
    with workspace(run, 2, first=True, notify=said.append) as (local, store):
        local.metrics.write_text('{"kind": "train", "step": 10}\n')
        for step, elbo in ((10, -5.0), (20, -9.0), (30, None), (40, -7.0)):
            save(store, step, elbo, said.append)
        assert store.newest().position.step == 40
    assert said == [Store(run.location).uri_of(f"checkpoints/step-{step:09d}") for step in (10, 20, 30, 40)]
    assert on_store(run) == {f"step-{step:09d}": True for step in (10, 30, 40)}
    assert not local.path.exists()
    run.refresh()
    found = checkpoints_of(run)
    assert run.metrics.read_text() == '{"kind": "train", "step": 10}\n'
    assert found.best().position.step == 10
    assert found.newest().weights()["w"][0, 0] == 40


def test_each_worker_resumes_from_the_checkpoint_that_the_first_one_found(run, s3):
    with workspace(run, 2, first=True, notify=print) as (_, store):
        save(store, 10, -5.0)
        save(store, 20, -4.0)
    s3.proxy.requests.clear()
    with workspace(run, 2, first=True, notify=print) as (_, store):
        assert store.newest().position.step == 20
        assert store.best().position.step == 20
        name = store.newest().path.name
        weights = [path for method, path in s3.proxy.requests if method == "GET" and "weights" in path]
        assert len(weights) == 1  # only the required one, once
        with workspace(run, 2, first=False, notify=print) as (_, other):
            assert other.find(name)
            assert other.open(other.folder / name).weights()["w"][0, 0] == 20
            assert not other.find("step-000000099")
        save(store, 30)
    assert on_store(run) == {"step-000000020": True, "step-000000030": True}


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", MARKER])
def test_a_damaged_checkpoint_is_named_passed_over_and_kept(run, file):
    with workspace(run, 3, first=True, notify=print) as (_, store):
        for step in (10, 20):
            save(store, step)
    Store(run.location).write(f"checkpoints/step-000000020/{file}", b"damaged")
    warned = []
    with workspace(run, 3, first=True, notify=print) as (_, store):
        newest = store.newest(warned.append)
        assert newest.position.step == 10
        store.drop_after(10)
        save(store, 20)
    assert "s3://" in warned[0]
    assert "checkpoints/step-000000020" in warned[0]
    assert on_store(run) == dict.fromkeys(("step-000000010", "step-000000020", "damaged-step-000000020"), True)
    assert Store(run.location).read(f"checkpoints/damaged-step-000000020/{file}") == b"damaged"
    assert checkpoints_of(run).newest().weights()["w"][0, 0] == 20


def test_partial_files_of_a_killed_writer_are_ignored_and_removed(run):
    with workspace(run, 2, first=True, notify=print) as (_, store):
        save(store, 10)
    there = Store(run.location)
    there.write("checkpoints/step-000000020/weights.safetensors", b"half")
    assert checkpoints_of(run).newest().position.step == 10
    with workspace(run, 2, first=True, notify=print) as (_, store):
        assert store.newest().position.step == 10
    assert on_store(run) == {"step-000000010": True}


def test_a_run_of_which_nothing_is_intact_is_refused(run):
    with workspace(run, 2, first=True, notify=print) as (_, store):
        save(store, 10)
    Store(run.location).write("checkpoints/step-000000010/optimizer.safetensors", b"damaged")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoints_of(run).newest()


def test_the_next_checkpoint_waits_for_the_one_before_and_not_for_itself(run, s3):
    notices, committed = [], []
    with workspace(run, 2, first=True, notify=notices.append) as (_, store):
        s3.proxy.vanish()
        save(store, 10, committed=committed.append)  # returns
        assert committed == []
        s3.proxy.appear()
        save(store, 20, committed=committed.append)
        assert len(committed) >= 1
    assert len(committed) == 2
    assert all(isinstance(event, Notice) for event in notices)


def test_a_store_that_does_not_recover_ends_the_run_with_its_name(run, s3, monkeypatch):
    monkeypatch.setattr("vaedist.storage.remote_folder.RUN_SECONDS", 0.5)
    gone = pytest.raises(StorageError, match=r"cannot remove s3://.*/checkpoints/step-000000010/COMMITTED")
    with gone, workspace(run, 2, first=True, notify=print) as (_, store):
        s3.proxy.refuse = lambda method, path: True
        save(store, 10)
        save(store, 20)


def test_an_interrupted_run_leaves_all_on_the_store(run):
    with contextlib.suppress(KeyboardInterrupt), workspace(run, 2, first=True, notify=print) as (local, store):
        local.metrics.write_text("row\n")
        save(store, 10)
        raise KeyboardInterrupt
    assert on_store(run) == {"step-000000010": True}
    assert Store(run.location).read("metrics.jsonl") == b"row\n"


def test_event_files_come_after_those_on_the_store_though_the_clock_was_set_back(run, monkeypatch):
    for hour in range(3):
        monkeypatch.setattr("time.time", lambda hour=hour: 1_700_000_000.0 - 3600 * hour)
        with workspace(run, 2, first=True, notify=print) as (local, _):
            writer = TensorBoardWriter(local.tensorboard, purge_step=hour + 1, after=event_files(local))
            writer.scalars(hour + 1, {"elbo/test": -float(hour)})
            writer.close()
            (made,) = local.tensorboard.iterdir()
        assert sorted(event_files(run))[hour:] == [made.name]


def test_evaluations_on_a_store_come_after_those_that_they_replace(run, monkeypatch):
    mean = {"mean": -1.0}
    record = {"bounds": {"1": mean}, "active_units": 1, "bits_per_dim": None, "kl_per_unit": [0.5], "step": 10}
    record |= dict.fromkeys(("gap", "reconstruction", "kl", "effective_sample_size"), mean)
    names = []
    for hour in range(3):
        monkeypatch.setattr("time.time", lambda hour=hour: 1_700_000_000.0 - 3600 * hour)
        save_evaluation(RunFolder.at(run.location), "test-k1", 10, record)
        (file,) = Store(run.location).files("tensorboard/evaluation/test-k1")
        names.append(file)
    assert names == sorted(names)
