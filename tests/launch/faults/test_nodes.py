"""Machines of the cluster die, leave and join during a run."""

import time

import pytest
from command import start
from metadata import PlayAws
from nodes import FIRST, HEAD, SECOND, THIRD

from vaedist.runs.checkpoint_store import CheckpointStore

EPOCHS = 12
NOTICE_SECONDS = 30


@pytest.fixture
def aws():
    """Starts a server that simulates the metadata service of a spot instance."""
    server = PlayAws()
    yield server
    server.close()


@pytest.fixture
def watching(aws, nodes, tmp_path):
    """Starts `vaedist cluster watch-preemption`, and returns its log once it watches a node."""
    begun = []

    def watch(node, waiting):
        log = tmp_path / f"watch-{node}.log"
        with log.open("w") as file:
            begun.append(
                start(
                    "cluster", "watch-preemption", "--cloud", "aws", "--url", aws.url, "--interval", "1",
                    "--address", nodes.address, "--node-ip", node, log=file,
                )
            )  # fmt: skip
        waiting("the watcher", lambda: "watching for preemptions" in log.read_text())
        return log

    yield watch
    for process in begun:
        process.terminate()
        process.wait()


def start_two(nodes, waiting):
    """Starts a head without CPUs, and two nodes of one CPU each."""
    nodes.start(HEAD, cpus=0)
    waiting("the head", lambda: nodes.joined(HEAD))
    nodes.start(FIRST, cpus=1)
    nodes.start(SECOND, cpus=1)
    waiting("two nodes", lambda: nodes.joined(FIRST) and nodes.joined(SECOND))


def test_a_run_continues_when_a_node_is_killed(experiment, nodes, training, waiting, recovered):
    experiment = experiment.with_overrides(
        f"training.epochs={EPOCHS}", "scaling.workers=2", "training.steps_per_call=4"
    )
    start_two(nodes, waiting)
    job = training(experiment, "--address", nodes.address)
    waiting("workers", lambda: job.runs() and nodes.workers(FIRST) and nodes.workers(SECOND))  # one each
    nodes.start(THIRD, cpus=1)
    waiting("the third node", lambda: job.runs() and nodes.joined(THIRD))
    job.wait_for_step(40)
    assert nodes.kill(FIRST) > 2
    at = job.rows()[-1]["step"]
    assert at < 100 * EPOCHS, "it was to be killed before the end"
    with recovered("a machine died, another took its place"):
        waiting("the third node", lambda: job.rows()[-1]["step"] > at)
    assert "resumed at step" in job.end()
    job.check_whole()


def test_an_elastic_run_shrinks_and_grows_and_computes_the_same(experiment, nodes, training, waiting, recovered):
    experiment = experiment.with_overrides(
        "training.epochs=40", "scaling.workers=[1, 2]", "scaling.resize_seconds=5", "training.steps_per_call=4",
        "model.hidden=512", "model.flow.width=512", "model.latent=64",  # slow enough for the group to grow again
    )  # fmt: skip
    start_two(nodes, waiting)
    job = training(experiment, "--address", nodes.address)
    waiting("two workers", lambda: job.runs() and nodes.workers(FIRST) and nodes.workers(SECOND))
    job.wait_for_step(40)
    nodes.kill(FIRST)
    at = job.rows()[-1]["step"]
    with recovered("a machine of an elastic run died"):
        waiting("one worker", lambda: job.runs() and job.rows()[-1]["step"] > at)
    nodes.start(THIRD, cpus=1)
    waiting("the third node", lambda: job.runs() and nodes.joined(THIRD))
    with recovered("a machine was there for an elastic run to grow"):
        waiting("two workers again", lambda: job.runs() and nodes.workers(THIRD))
    said = job.end()
    counts = [line.split(" worker")[0].rpartition(" ")[2] for line in said.splitlines() if " device" in line]
    assert counts == ["2", "1", "2"], said
    job.check_whole()
    lone = experiment.with_overrides("scaling.workers=1", "scaling.cpus_per_worker=2", "run.name=undisturbed")
    undisturbed = training(lone)
    undisturbed.end()
    for row, expected in zip(job.rows(), undisturbed.rows(), strict=True):
        assert (row["kind"], row["step"]) == (expected["kind"], expected["step"])
        assert row["elbo"] == pytest.approx(expected["elbo"], rel=1e-4)


def test_an_elastic_run_whose_command_was_killed_can_restart(experiment, nodes, training, waiting, recovered):
    experiment = experiment.with_overrides(
        f"training.epochs={EPOCHS}", "scaling.workers=[1, 2]", "scaling.resize_seconds=5", "training.steps_per_call=4"
    )
    start_two(nodes, waiting)
    killed = training(experiment, "--address", nodes.address)
    killed.wait_for_step(40)
    watching = nodes.named(HEAD, "EndingCleaner")
    assert len(watching) == 1
    killed.process.kill()
    killed.process.wait()
    with recovered("the command of an elastic run was killed, and resumed"):
        job = training(experiment, "--address", nodes.address, "--resume")
        waiting("the workers to end", lambda: job.runs() and not nodes.workers(FIRST) and not nodes.workers(SECOND))
        at = job.rows()[-1]["step"]
        waiting("the next step", lambda: job.runs() and job.rows()[-1]["step"] > at)
    assert not set(watching) & set(nodes.named(HEAD, "EndingCleaner"))
    said = job.end()
    assert "2 workers" in said
    job.check_whole()


def test_a_run_saves_in_time_when_a_machine_is_announced_to_go(experiment, nodes, training, waiting, recovered):
    experiment = experiment.with_overrides(
        "training.epochs=60", "scaling.workers=[1, 2]", "scaling.max_failures=0", "training.steps_per_call=1",
        "checkpoint.every_steps=0", "monitor.log_every=1", "training.global_batch=16",
        "model.hidden=512", "model.flow.width=512", "model.latent=64",
    )  # fmt: skip
    start_two(nodes, waiting)
    job = training(experiment, "--address", nodes.address)
    waiting("two workers", lambda: job.runs() and nodes.workers(FIRST) and nodes.workers(SECOND))
    job.wait_for_step(20)
    nodes.drain(FIRST, NOTICE_SECONDS)
    end = time.monotonic() + NOTICE_SECONDS
    store = CheckpointStore(job.run)
    waiting("a checkpoint", lambda: job.runs() and any(path.name[-2:] != "00" for path in store.committed()))
    assert time.monotonic() < end
    waiting("the time to be over", lambda: time.monotonic() > end)
    at = job.rows()[-1]["step"]
    nodes.kill(FIRST)
    with recovered("a machine was announced to go, and went"):
        waiting("one worker", lambda: job.runs() and nodes.workers(SECOND) and job.rows()[-1]["step"] > at + 50)
    said = job.end()
    assert "will be preempted at " in said
    assert "has left the preempted machines: restarting without them" in said
    job.check_whole()


def test_a_notice_at_the_metadata_service_becomes_a_save_and_a_drain(
    experiment, nodes, training, waiting, recovered, aws, watching
):
    experiment = experiment.with_overrides(
        "training.epochs=60", "scaling.workers=[1, 2]", "scaling.max_failures=0", "training.steps_per_call=1",
        "checkpoint.every_steps=0", "monitor.log_every=1", "training.global_batch=16",
        "model.hidden=512", "model.flow.width=512", "model.latent=64",
    )  # fmt: skip
    start_two(nodes, waiting)
    log = watching(FIRST, waiting)
    job = training(experiment, "--address", nodes.address)
    waiting("two workers", lambda: job.runs() and nodes.workers(FIRST) and nodes.workers(SECOND))
    job.wait_for_step(20)
    assert "could not be passed on" not in log.read_text()
    aws.announce(NOTICE_SECONDS)
    end = time.monotonic() + NOTICE_SECONDS
    store = CheckpointStore(job.run)
    waiting("a checkpoint", lambda: job.runs() and any(path.name[-2:] != "00" for path in store.committed()))
    assert time.monotonic() < end
    waiting("the time to be over", lambda: time.monotonic() > end)
    at = job.rows()[-1]["step"]
    nodes.kill(FIRST)
    with recovered("a metadata service announced that a machine goes, and it went"):
        waiting("one worker", lambda: job.runs() and nodes.workers(SECOND) and job.rows()[-1]["step"] > at + 50)
    assert log.read_text().count("this node is draining") == 1
    job.process.terminate()
    said = job.end(code=130)
    assert "will be preempted at " in said
    assert "has left the preempted machines: restarting without them" in said
