"""Sweeps through Ray Tune: real trials, each on real Ray Train workers."""

import json
import math
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass

import pytest
import ray
from board import Board
from ray.util import placement_group_table
from tensorboard.plugins.hparams import metadata

from vaedist.config import Sweep
from vaedist.errors import ClusterError, ConfigError, Interrupted, RunError
from vaedist.launch.tuning import monitor as following
from vaedist.launch.tuning.monitor import SweepMonitor
from vaedist.launch.tuning.search import Drawn, TreeParzen
from vaedist.launch.tuning.sweep import make_scheduler, plan, tune
from vaedist.monitor.metrics import MetricsLog, read_metrics
from vaedist.monitor.sweep_events import SweepNotice, SweepStarted, TrialStatus
from vaedist.runs.folder import RunFolder
from vaedist.sweeps import SweepFolder, Trial, TrialLog

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

FREE_SECONDS = 10  # until the resources of a stopped trial are free


@pytest.fixture
def sweep(experiment):
    """Returns a grid of two depths, with 2 epochs of 100 steps each."""

    def make(space=None, /, overrides=(), **settings):
        space = space or {"model.flow.depth": {"grid": [0, 2]}}
        tables = experiment.with_overrides("run.name=sweep", *overrides).model_dump()
        return Sweep.from_dict(tables | {"tune": {"search": "grid", "scheduler": "none", **settings, "space": space}})

    return make


def states(folder):
    return [trial.state for trial in folder.read_trials()]


def running(folder):
    """Returns the number of times that each trial is logged as running."""
    records = [json.loads(line) for line in folder.trials.read_text().splitlines()]
    return Counter(record["trial"] for record in records if record["state"] == "running")


def held():
    """Returns the placement groups that hold resources."""
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def test_two_worker_trials_end_on_two_cpus_and_tensorboard_lists_their_parameters(sweep):
    wanted = sweep(overrides=("scaling.workers=2", "monitor.importance_samples=4"), metric="importance_bound")
    planned = plan(wanted)
    assert (planned.trials, planned.at_once, planned.resources) == (2, 1, {"CPU": 1.0})
    events = []
    folder = tune(wanted, observe=events.append)
    assert states(folder) == ["finished", "finished"]
    assert isinstance(events[0], SweepStarted)
    for number, trial in enumerate(folder.read_trials()):
        assert trial.params == {"model.flow.depth": 2 * number}
        assert [epoch.epoch for epoch in trial.epochs] == [1, 2]
        assert all(epoch.importance_bound > epoch.elbo for epoch in trial.epochs)
        seen = [event for event in events if isinstance(event, TrialStatus) and event.number == number]
        assert [event.epoch for event in seen if event.state == "running"] == [0, 1, 2]
        assert seen[-1].best == max(epoch.importance_bound for epoch in trial.epochs)
        board = Board(trial.run.tensorboard)
        plugin = board.reader.PluginTagToContent("hparams")
        start = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG])
        assert start.hparams["model.flow.depth"].number_value == 2 * number
        assert dict(start.hparams).keys() == {"model.flow.depth"}  # not those of a run on its own
        last, best = trial.epochs[-1], max(epoch.importance_bound for epoch in trial.epochs)
        shown = metadata.parse_experiment_plugin_data(plugin[metadata.EXPERIMENT_TAG]).metric_infos
        scores = {
            "hparam/elbo": last.elbo, "hparam/importance_bound": last.importance_bound,
            "hparam/best_importance_bound": best, "hparam/epochs": 2.0,
        }  # fmt: skip
        assert {(info.name.group, info.name.tag) for info in shown} == {("", tag) for tag in scores}
        assert {tag: board.last(tag) for tag in scores} == pytest.approx(scores, rel=1e-6)
        tested = Board(trial.run.tensorboard / "test")
        for tag, value in (("elbo", last.elbo), ("importance/bound", last.importance_bound)):
            assert tested.last(tag) == pytest.approx(value, rel=1e-6)

    ended = []
    tune(wanted, resume=True, observe=ended.append)
    assert [type(event) for event in ended] == [SweepStarted, SweepNotice]
    assert running(folder) == {0: 1, 1: 1}


@pytest.mark.slow
def test_a_trial_that_asha_stops_frees_its_resources_for_the_next_one(sweep, processes):
    # One after the other on the whole cluster: the second does not learn, and would run for long.
    space = {"training.learning_rate": {"grid": [1e-3, 1e-9, 2e-3]}}
    wanted = sweep(space, ("scaling.cpus_per_worker=2", "training.epochs=30"), scheduler="asha", reduction=2.0)
    freed, workers, stopped = threading.Event(), [], []

    def wait_until_free():
        deadline = time.monotonic() + FREE_SECONDS
        while time.monotonic() < deadline and not freed.is_set():
            running = any(worker.is_running() for worker in workers)
            if not running and not any("CPU" in group["bundles"][0] for group in held()):
                freed.set()
            time.sleep(0.05)

    def observe(event):
        if isinstance(event, TrialStatus) and event.number == 1:
            if event.state == "running" and event.epoch == 1:
                workers.extend(processes("RayTrainWorker"))
            if event.state == "stopped":
                stopped.append(event.epoch)
                threading.Thread(target=wait_until_free).start()

    folder = tune(wanted, observe=observe)
    assert states(folder) == ["finished", "stopped", "finished"]
    assert workers
    assert freed.wait(FREE_SECONDS), "workers or their placement group were there after 10 s"
    assert [folder.read_trials()[1].epochs[-1].epoch] == stopped  # as reported, though its process trained on
    assert stopped[0] < 30


@pytest.mark.slow
def test_trials_that_diverge_or_are_killed_do_not_end_the_sweep(sweep, processes):
    space = {"training.learning_rate": {"grid": [10.0, 1e-3]}}
    killed, notices = [], []

    def kill(event):
        notices.append(event)
        if isinstance(event, TrialStatus) and event.number == 1 and event.epoch == 1 and not killed:
            killed.extend([*processes("ray::ResourceTrainable"), *processes("ray::TrialRunner")])
            for victim in killed:
                victim.kill()

    wanted = sweep(space, ("training.epochs=20",), retries=2, concurrent=1)
    folder = tune(wanted, observe=kill)
    assert len(killed) == 1
    assert any(isinstance(event, SweepNotice) and "0001 failed and is retried" in event.text for event in notices)
    assert states(folder) == ["failed", "finished"]
    assert "became NaN or infinite" in folder.read_trials()[0].reason
    assert running(folder) == {0: 1, 1: 2}, "one that diverged would only diverge again"
    rows = read_metrics(folder.read_trials()[1].run.metrics)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(5, 2001, 5))
    tune(wanted, resume=True, retry_failed=True)
    assert running(folder) == {0: 2, 1: 2}


@pytest.mark.slow
def test_ctrl_c_leaves_trials_open_and_a_resumed_sweep_may_have_more(sweep):
    space = {"model.latent": {"randint": [2, 9]}, "training.learning_rate": {"loguniform": [1e-4, 1e-2]}}

    def interrupt(event):
        if isinstance(event, TrialStatus) and event.state == "running" and event.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    wanted = sweep(space, ("training.epochs=30",), search="random", samples=1)
    with pytest.raises(Interrupted, match=r"0 of 1 trials have ended; vaedist tune --resume .*sweep resumes the sweep"):
        tune(wanted, observe=interrupt)
    folder = SweepFolder.of(wanted)
    assert states(folder) == ["open"]
    reached = read_metrics(folder.read_trials()[0].run.metrics)[-1]["step"]
    assert 100 <= reached < 3000
    other = {"model.latent": {"randint": [2, 8]}}
    with pytest.raises(RunError, match=r"was started with another tune\.space"):
        tune(sweep(other, ("training.epochs=30",), search="random", samples=2), resume=True)
    tune(sweep(space, ("training.epochs=30",), search="random", samples=2), resume=True)
    assert states(folder) == ["finished", "finished"]
    assert running(folder) == {0: 2, 1: 1}
    assert [dict(trial.params) for trial in folder.read_trials()] == [wanted.drawn(0), wanted.drawn(1)]
    steps = [row["step"] for row in read_metrics(folder.read_trials()[0].run.metrics) if row["kind"] == "train"]
    assert steps == list(range(5, 3001, 5))
    with pytest.raises(ConfigError, match=r"tune\.samples = 1: the sweep at .* already has 2 trials"):
        tune(wanted, resume=True)


def test_a_sweep_is_stopped_after_its_time_limit(sweep, monkeypatch):
    wanted = sweep(minutes=2.0)
    follower = SweepMonitor(wanted, TrialLog(SweepFolder.of(wanted)), Drawn(wanted), lambda _: None)
    assert not follower.stopper().stop_all()
    began = time.monotonic()
    monkeypatch.setattr(following.time, "monotonic", lambda: began + 121.0)
    assert follower.stopper().stop_all()


@pytest.mark.parametrize(("scheduler", "reduction"), [("asha", 2.0), ("median", 4.0)])
def test_the_scheduler_of_a_resumed_sweep_knows_the_ended_trials(sweep, tmp_path, scheduler, reduction):
    wanted = sweep(None, ("training.epochs=9",), scheduler=scheduler, reduction=reduction)
    ended = []
    for number in range(4):
        run = RunFolder.at(tmp_path / str(number))
        log = MetricsLog(run.metrics, resume_step=None)
        for epoch in (1, 2, 3):
            log.append("test", epoch, 100 * epoch, {"elbo": -100.0 - number + epoch})
        log.close()
        ended.append(Trial(number, {}, run, "finished"))
    for elbo, known, decision in ((-200.0, ended, "STOP"), (-50.0, ended, "CONTINUE"), (-200.0, [], "CONTINUE")):
        made, trial = make_scheduler(wanted, known), Asked("new")
        made.on_trial_add(None, trial)
        assert made.on_trial_result(None, trial, {"epochs": 2, "elbo": elbo}) == decision


@dataclass(frozen=True)
class Asked:
    trial_id: str


def test_optuna_learns_from_ended_trials_even_after_a_restart(sweep):
    pytest.importorskip("optuna")
    space = {
        "training.learning_rate": {"loguniform": [1e-5, 1e-2]},
        "model.flow.depth": {"choice": [0, 1]},
        "model.latent": {"randint": [2, 8], "step": 2},
    }
    wanted = sweep(space, search="optuna", samples=60)

    def score(params):  # best at a learning rate of 1e-3 and depth 1
        return -abs(math.log10(params["training.learning_rate"]) + 3) - (params["model.flow.depth"] == 0)

    def go_on(past, count):
        proposer = TreeParzen(wanted)
        for number, params in enumerate(past):
            proposer.learn(number, params, score(params))
        for number in range(len(past), count):
            past.append(proposer.propose(number))
            proposer.learn(number, past[-1], score(past[-1]) if number != 3 else None)  # one that failed
        return past

    first = go_on([], 30)
    assert all(params["model.latent"] in (2, 4, 6, 8) for params in first)
    later = go_on(list(first), 60)[30:]
    assert len({tuple(params.values()) for params in first + later}) == 60
    mean = [sum(map(score, part)) / len(part) for part in (first[:10], later)]
    assert mean[1] > mean[0] + 0.3


def test_an_impossible_sweep_is_refused_and_leaves_nothing(sweep):
    with pytest.raises(ClusterError, match=r"scaling.workers = 3, each of 1 CPU.* 2 CPU"):
        tune(sweep(None, ("scaling.workers=3",)))
    assert not SweepFolder.of(sweep()).path.exists()
    with pytest.raises(RunError, match="no sweep at"):
        tune(sweep(), resume=True)
    assert not SweepFolder.of(sweep()).path.exists()


def test_the_cluster_is_as_it_was():
    deadline = time.monotonic() + FREE_SECONDS
    while held() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not held()
    assert ray.available_resources()["CPU"] == 2
