"""Translation of errors of a command's actors."""

import time

import pytest
from ray.exceptions import OutOfMemoryError

from vaedist.errors import DataError, WorkerError
from vaedist.launch.actors import ended

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class Failing:
    def fail(self, error):
        raise error

    def die(self):
        import os

        os._exit(1)


@pytest.fixture
def actor(cluster):
    import ray

    return ray.remote(Failing).options(num_cpus=0).remote()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda actor: actor.fail.remote(DataError("a shard is gone")), DataError, "^a shard is gone$"),
        (lambda actor: actor.fail.remote(KeyError("x")), WorkerError, "^a worker failed: KeyError: 'x'$"),
        (lambda actor: actor.die.remote(), WorkerError, "^it died: "),
    ],
)
def test_an_error_is_reported_and_the_actor_ended(actor, call, kind, text):
    import ray

    with pytest.raises(kind, match=text), ended([actor], "it died"):
        ray.get(call(actor))
    deadline = time.monotonic() + 60
    while not is_ended(actor):  # Ray kills actors asynchronously
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_ended(actor):
    import ray

    try:
        ray.get(actor.fail.remote(KeyError("x")))
    except ray.exceptions.RayActorError:
        return True
    except KeyError:
        return False
    raise AssertionError


def test_an_actor_that_ran_out_of_memory_is_reported(actor):
    with pytest.raises(WorkerError, match=r"^a worker failed: no memory is left$"), ended([actor], "it died"):
        raise OutOfMemoryError("no memory is left\nmore")
