"""Runs and sweeps that are refused or complete before Ray is started, and files that stay unchanged."""

import shutil

import numpy as np
import pytest

from vaedist.config import Experiment, Sweep
from vaedist.data.manifest import load_manifest
from vaedist.errors import ClusterError, ConfigError, RunError
from vaedist.launch.training.trainer import train
from vaedist.launch.tuning.sweep import tune
from vaedist.monitor.events import Notice
from vaedist.monitor.metrics import MetricsLog
from vaedist.monitor.sweep_events import SweepNotice, SweepStarted
from vaedist.runs.checkpoint import Position
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.runs.resuming import check_run
from vaedist.storage.transfer import Store
from vaedist.storage.uri import join_uri
from vaedist.sweeps import SweepFolder, TrialLog

NOWHERE = "127.0.0.1:9"  # without Ray, so that joining it fails at once
STEPS = 7  # per epoch

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def experiment(small_dataset, tmp_path):
    return Experiment.from_dict(
        {
            "run": {"name": "run", "folder": str(tmp_path / "runs")},
            "data": {"path": str(small_dataset)},
            "model": {"hidden": 8, "latent": 4},
            "training": {"epochs": 2, "global_batch": 8},
        }
    )


def write_run(experiment, folder, *, epochs=2, part=False):
    """Writes the files of a run that has completed some epochs, and `part` of the next one."""
    folder.path.mkdir(parents=True)
    folder.experiment.write_text(experiment.to_toml())
    log, store = MetricsLog(folder.metrics, resume_step=None), CheckpointStore(folder, keep=9)
    fingerprint = load_manifest(experiment.data.path).fingerprint
    places = [(epoch, STEPS * epoch, -10.0 + epoch) for epoch in range(1, epochs + 1)]
    places += [(epochs, STEPS * epochs + 3, None)] if part else []
    for epoch, step, elbo in places:
        if elbo is not None:
            log.append("test", epoch, step, {"elbo": elbo, "reconstruction": elbo, "kl": 0.0})
        position = Position(epoch, step, fingerprint, (4, 6, 3), elbo)
        store.save(position, {"w": np.ones(3, np.float32)}, {}, experiment.to_toml())
    log.close()
    return folder


def content(folder):
    """Returns all contents of a folder except the lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(params=["local", "s3"])
def run(request, experiment, tmp_path, s3):
    """Returns the experiment of a completed run, local or on an object store, and a function that reads all files."""
    local = write_run(experiment, RunFolder.at(tmp_path / "runs" / "run"))
    if request.param == "local":
        return experiment, lambda: content(local.path)
    runs = s3.uri(tmp_path.name)
    store = Store(join_uri(runs, "run"))
    for path in local.path.rglob("*"):
        if path.is_file():
            store.upload(path, path.relative_to(local.path).as_posix())
    shutil.rmtree(local.path)
    remote = experiment.with_overrides(f"run.folder={runs}")
    store.write("experiment.toml", remote.to_toml().encode())
    return remote, lambda: {name: store.read(name) for name in store.files()}


def test_fewer_epochs_than_completed_are_refused_and_nothing_is_written(run):
    experiment, look = run
    before = look()
    with pytest.raises(RunError, match=r"run .*run.* has completed 2 epochs, and the job says training\.epochs = 1: "):
        train(experiment.with_overrides("training.epochs=1"), resume=True)
    assert look() == before


def test_a_complete_run_ends_at_once_with_its_result(run):
    experiment, look = run
    before, events = look(), []
    found = train(experiment.with_overrides("checkpoint.keep=5"), resume=True, observe=events.append)
    assert [type(event) for event in events] == [Notice]
    assert events[0].text.endswith("is complete: all 2 epochs are done")
    assert "elbo" in found.metrics.read_text()
    assert look() == before


def test_part_of_an_epoch_counts(experiment, tmp_path):
    write_run(experiment, RunFolder.of(experiment), epochs=1, part=True)
    with pytest.raises(
        RunError, match=r"has completed 1 epoch and part of the next, and the job says training\.epochs = 1"
    ):
        train(experiment.with_overrides("training.epochs=1"), resume=True)


@pytest.mark.parametrize("damage", ["checkpoint", "metrics", "epochs"])
def test_a_run_that_only_looks_complete_is_left_to_the_workers(experiment, damage):
    run = write_run(experiment, RunFolder.of(experiment))
    if damage == "checkpoint":
        weights = run.checkpoints / f"step-{2 * STEPS:09d}" / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "metrics":
        run.metrics.write_text(run.metrics.read_text().splitlines(keepends=True)[0])
    else:  # more trials were planned
        run.experiment.write_text(experiment.with_overrides("training.epochs=3").to_toml())
    with pytest.raises(ClusterError):
        train(experiment, resume=True, address=NOWHERE)


def test_the_record_of_a_run_stays_until_workers_have_started(experiment):
    run = write_run(experiment, RunFolder.of(experiment), epochs=1)
    before = run.experiment.read_bytes()
    for override in ("checkpoint.keep=5", "training.epochs=9", "scaling.max_failures=7", "training.steps_per_call=2"):
        with pytest.raises(ClusterError, match="no Ray cluster answers"):
            train(experiment.with_overrides(override), resume=True, address=NOWHERE)
        assert run.experiment.read_bytes() == before, override


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("scaling.workers=9", "9 workers cannot share 8 shards"),
        ("training.schedule=cosine", r"training\.schedule = 'constant', and the job says 'cosine'"),
        ("training.global_batch=16", r"training\.global_batch = 8, and the job says 16"),
        ("training.precision=tf32", "another run; --changed-precision accepts that; use --name to start one"),
    ],
)
def test_changes_that_a_run_cannot_be_resumed_with_are_refused_and_nothing_is_written(experiment, override, says):
    run = write_run(experiment, RunFolder.of(experiment), epochs=1)
    before = content(run.path)
    with pytest.raises(Exception, match=says):
        train(experiment.with_overrides(override), resume=True)
    assert content(run.path) == before


@pytest.mark.parametrize(
    "schedule", [["schedule=cosine"], ["schedule=linear"], ["schedule=exponential", "decay_to=0.1"]], ids=lambda s: s[0]
)
def test_more_epochs_are_refused_if_the_learning_rate_decays_until_the_last(experiment, schedule):
    decaying = experiment.with_overrides(*(f"training.{each}" for each in schedule))
    run = write_run(decaying, RunFolder.of(decaying), epochs=1)
    with pytest.raises(RunError, match=r"training\.epochs = 2, and the job says 9, which would be another run, as the"):
        check_run(run, decaying.with_overrides("training.epochs=9"), resume=True)


def test_a_schedule_in_steps_is_resumed_with_more_epochs(experiment):
    steps = ["training.schedule=steps", "training.decay_epochs=[1]", "training.decay_factors=[0.1]"]
    stepped = experiment.with_overrides(*steps)
    run = write_run(stepped, RunFolder.of(stepped), epochs=1)
    assert check_run(run, stepped.with_overrides("training.epochs=9"), resume=True)
    with pytest.raises(RunError, match=r"training\.decay_factors = \(0\.1,\), and the job says \(0\.2,\)"):
        check_run(run, stepped.with_overrides("training.decay_factors=[0.2]"), resume=True)


def test_a_change_of_precision_is_accepted_if_the_user_says_so(experiment):
    run = write_run(experiment, RunFolder.of(experiment), epochs=1)
    other = experiment.with_overrides("training.precision=mixed_bfloat16")
    assert check_run(run, other, resume=True, changed_precision=True)
    with pytest.raises(RunError, match="started with seed = 0"):
        check_run(run, other.with_overrides("seed=3"), resume=True, changed_precision=True)


def test_other_data_is_refused_and_nothing_is_written(experiment, blob_data):
    run = write_run(experiment, RunFolder.of(experiment), epochs=1)
    before = content(run.path)
    with pytest.raises(RunError, match=f"was trained on data [0-9a-f]{{12}}, and {blob_data} is [0-9a-f]{{12}}"):
        train(experiment.with_overrides(f"data.path={blob_data}"), resume=True)
    assert content(run.path) == before


@pytest.fixture
def sweep(experiment):
    """Returns a grid of two trials."""

    def make(*overrides, **settings):
        space = {"model.flow.depth": {"grid": [0, 2]}}
        tables = experiment.with_overrides("run.name=sweep", *overrides).model_dump()
        return Sweep.from_dict(tables | {"tune": {"search": "grid", "scheduler": "asha", **settings, "space": space}})

    return make


def write_sweep(sweep, states):
    folder = SweepFolder.of(sweep)
    folder.path.mkdir(parents=True)
    folder.sweep.write_text(sweep.to_toml())
    log = TrialLog(folder)
    for number, state in enumerate(states):
        trial = log.add(number, sweep.drawn(number))
        write_run(sweep.experiment(trial.params, name=trial.name, folder=folder.location), trial.run, epochs=1)
        log.set(number, "running")
        log.set(number, state)
    return folder


def test_a_sweep_whose_trials_have_all_ended_ends_at_once(sweep):
    folder = write_sweep(sweep(), ["finished", "failed"])
    before, events = content(folder.path), []
    tune(sweep(minutes=3.0), resume=True, observe=events.append)
    assert [type(event) for event in events] == [SweepStarted, SweepNotice]
    assert [(status.number, status.state) for status in events[0].ended] == [(0, "finished"), (1, "failed")]
    with pytest.raises(ClusterError):  # there is work left
        tune(sweep(), resume=True, retry_failed=True, address=NOWHERE)
    assert content(folder.path).items() >= before.items()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("training.epochs=1",), r"training\.epochs = 2, and the job says 1"),
        (("training.epochs=3",), r"training\.epochs = 2, and the job says 3"),
        ({"grace_epochs": 2}, r"tune\.grace_epochs = 1, and the job says 2"),
        ({"reduction": 2.0}, r"tune\.reduction = 3\.0, and the job says 2\.0"),
        ({"scheduler": "median"}, r"tune\.scheduler = 'asha', and the job says 'median'"),
    ],
)
def test_a_sweep_is_resumed_unchanged_and_a_difference_is_named(sweep, changed, says):
    folder = write_sweep(sweep(), ["finished", "open"])
    before = content(folder.path)
    other = sweep(**changed) if isinstance(changed, dict) else sweep(*changed)
    with pytest.raises(RunError, match=rf"sweep .* was started with {says}"):
        tune(other, resume=True)
    assert content(folder.path) == before


def test_the_record_of_a_sweep_stays_until_there_is_room_for_it(sweep, blob_data):
    folder = write_sweep(sweep(), ["finished", "open"])
    before = folder.sweep.read_bytes()
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        tune(sweep(retries=5), resume=True, address=NOWHERE)
    with pytest.raises(RunError, match="was trained on data"):
        tune(sweep(f"data.path={blob_data}"), resume=True, address=NOWHERE)
    assert folder.sweep.read_bytes() == before
    drawn = sweep(search="random", samples=1)
    shutil.rmtree(folder.path)
    folder = write_sweep(sweep(search="random", samples=2), ["finished", "open"])
    before = folder.sweep.read_bytes()
    with pytest.raises(ConfigError, match=r"tune\.samples = 1: the sweep at .* already has 2 trials"):
        tune(drawn, resume=True, address=NOWHERE)
    assert folder.sweep.read_bytes() == before
