"""Checkpoints that are written while training continues."""

import threading
import time
from functools import partial

import numpy as np
import pytest

from vaedist.errors import CheckpointError, StorageError
from vaedist.runs.async_checkpointer import AsyncCheckpointer
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.storage.local_folder import LocalFolderStore

WEIGHTS, SLOTS = {"w": np.ones(3, np.float32)}, {"m/w": np.zeros(3, np.float32)}
SECONDS = 60


def save(saver, store, step, weights=WEIGHTS, committed=lambda _: None):
    position = Position(0, step, "f", (4, 6, 3))
    saver.begin(partial(store.save, position, weights, SLOTS, "seed = 0\n", committed=committed))


def store_in(folder, **options):
    return CheckpointStore(RunFolder(LocalFolderStore(folder, **options)))


def check_until_known(saver):
    for _ in range(100 * SECONDS):
        saver.check()
        time.sleep(0.01)


def names(store):
    return [path.name for path in store.committed()]


def test_training_continues_while_one_is_written(tmp_path):
    go_on, told = threading.Event(), []
    store = store_in(tmp_path, may_write=lambda: go_on.wait(SECONDS))
    with AsyncCheckpointer(store) as saver:
        save(saver, store, 1, committed=told.append)
        saver.check()
        assert (names(store), told) == ([], [])
        go_on.set()
        saver.settle()
        assert (names(store), told) == (["step-000000001"], [str(store.folder / "step-000000001")])


def test_one_is_committed_before_the_next_is_begun_and_all_at_the_end(tmp_path):
    store = store_in(tmp_path)
    with AsyncCheckpointer(store) as saver:
        save(saver, store, 1)
        saver.make_room()
        assert names(store) == ["step-000000001"]
        save(saver, store, 2)
    assert names(store) == ["step-000000002", "step-000000001"]


@pytest.mark.parametrize("call", [AsyncCheckpointer.make_room, AsyncCheckpointer.settle, check_until_known])
def test_a_failed_write_is_raised_once_at_the_next_call(tmp_path, call):
    failed = threading.Event()

    def refuse():
        failed.set()
        raise StorageError("no room")

    store = store_in(tmp_path, may_write=refuse)
    with AsyncCheckpointer(store) as saver:
        save(saver, store, 1)
        assert failed.wait(SECONDS)
        with pytest.raises(StorageError, match="no room"):
            call(saver)
        saver.settle()
    assert not names(store)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    store = store_in(tmp_path)
    with AsyncCheckpointer(store) as saver:
        save(saver, store, 1)
        saver.make_room()
        save(saver, store, 2, {"w": np.array([1, np.nan], np.float32)})
        with pytest.raises(CheckpointError, match="step 2: w is not finite"):
            saver.settle()
    assert names(store) == ["step-000000001"]
