"""A writer is killed at each step of a checkpoint: the newest committed one loads, and no other files remain."""

import os
import resource
import signal
import sys

import numpy as np
import pytest

from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a writer is killed in a process of its own")

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")  # of sys.addaudithook
SIZES = range(0, 4150, 150)  # bytes written to one file; the largest, that of the weights, has slightly more than 4,000


def arrays(step):
    return {"w": np.full((32, 32), step, np.float32)}, {"m/w": np.full((32, 32), -step, np.float32)}


def save(store, step, elbo=None):
    store.save(Position(0, step, "f", (4, 6, 3), elbo), *arrays(step), "seed = 0\n")


def writer(store, prepare):
    """Saves step 40 in a process that `prepare` arranges to be killed; returns the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            prepare()
            save(store, 40)
        finally:
            os._exit(0)  # ends the process without pytest's cleanup
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def killed_at(number, folder, count):
    """Arranges that this process is killed before operation `number` in a folder; counts operations in `count`."""

    def reach():
        count[0] += 1
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event, arguments):
        if event in EVENTS and str(folder) in str(arguments[0]):
            reach()

    sync = os.fsync

    def fsync(descriptor):
        reach()
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(audit)


def three(folder):
    """Saves three checkpoints, so that the next one to be saved removes one of them."""
    store = CheckpointStore(RunFolder.at(folder), keep=2)
    for step, elbo in ((10, -1.0), (20, -2.0), (30, -3.0)):
        save(store, step, elbo)
    return store


def check(store):
    """Checks that the newest checkpoint is intact and the next writer removes half-written ones; returns its step."""
    found = store.newest(pytest.fail)
    assert found.position.step in (30, 40)
    weights, slots = arrays(found.position.step)
    assert np.array_equal(found.weights()["w"], weights["w"])
    assert np.array_equal(found.optimizer()["m/w"], slots["m/w"])
    assert store.best().position.step == 10
    store.clean()
    save(store, 50, -4.0)
    assert store.newest(pytest.fail).position.step == 50
    kept = {path.name for path in store.folder.iterdir()}
    assert kept == {f"step-{step:09d}" for step in (10, found.position.step, 50)}
    return found.position.step


def operations(store):
    """Returns the number of operations of a writer that is not killed."""
    count = [0]
    reader, sender = os.pipe()
    child = os.fork()
    if not child:
        killed_at(0, store.folder, count)
        save(store, 40)
        os.write(sender, str(count[0]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(sender)
    with os.fdopen(reader) as told:
        return int(told.read())


def test_killed_at_every_operation(tmp_path_factory):
    total = operations(three(tmp_path_factory.mktemp("counted")))
    assert total > 20
    newest = []
    for number in range(1, total + 1):
        store = three(tmp_path_factory.mktemp("killed"))
        ended = writer(store, lambda store=store, number=number: killed_at(number, store.folder, [0]))
        assert ended == signal.SIGKILL, number
        newest.append(check(store))
    assert newest == sorted(newest)  # there is one operation that commits
    assert {30, 40} == set(newest)


@pytest.mark.parametrize("size", SIZES)
def test_killed_in_the_middle_of_a_file(tmp_path, size):
    store = three(tmp_path)

    def limit():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    assert writer(store, limit) == signal.SIGXFSZ
    assert check(store) == 30
