"""Benchmarks on Ray measure everything, and leave nothing behind."""

import json
import os
import signal

import psutil
import pytest
from command import refused, run, start

from vaedist.bench.record import WORKERS, read_record
from vaedist.errors import ClusterError, Interrupted, NonFiniteError
from vaedist.launch.bench import bench

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SECONDS = 120
ALONE = {"step", "products", "update", "memory", "input", "test"}


@pytest.fixture(scope="module")
def record(cluster, make_experiment, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    said = []
    found = bench(make_experiment(runs), workers=(2,), rounds=2, progress=said.append)
    assert not list(runs.iterdir())  # the measured runs
    assert "compiling" in said
    assert any("2 workers: round 2 of 2" in text for text in said)
    return found


@pytest.mark.slow
def test_all_is_measured(record):
    assert set(record.measures) == ALONE | {f"{WORKERS}2"}
    for name, measure in record.measures.items():
        assert len(measure.samples) == 2, name
        assert all(sample > 0 for sample in measure.samples), name
    assert record.counts["images a step"] == 16
    assert record.counts["flops a step"] > 5 * 16 * 2 * 192 * 24  # of the outermost layers alone
    assert record.machine["threads"] == "2"
    assert 0 < record.share_of_limit < 5
    assert list(record.scaling) == [2]


@pytest.mark.slow
def test_the_command_prints_saves_and_compares(record, make_experiment, tmp_path):
    job, before, kept = tmp_path / "job.toml", tmp_path / "before.json", tmp_path / "kept.json"
    job.write_text(make_experiment(tmp_path / "runs").to_toml())
    before.write_text(record.to_json().replace('"threads": "2"', '"threads": "9"'))
    out, _ = run("bench", job, "--rounds", 1, "--out", kept, "--against", before)
    for told in ("its matrix products, alone", "of the limit", "training", "now / before", "threads: 9, now 2"):
        assert told in out
    assert f"wrote {kept}" in out
    assert set(read_record(kept).measures) == ALONE | {f"{WORKERS}1"}
    assert json.loads(kept.read_text())["format"] == 1


@pytest.mark.slow
def test_an_interrupted_benchmark_leaves_nothing(make_experiment, tmp_path):
    job, runs = tmp_path / "job.toml", tmp_path / "runs"
    job.write_text(make_experiment(runs).to_toml())
    command = start("bench", job, "--rounds", 1)
    assert any("1 worker: compiling" in line for line in command.stderr)  # in the middle of a run
    processes = psutil.Process(command.pid).children(recursive=True)
    assert processes
    command.send_signal(signal.SIGTERM)
    try:
        out, err = command.communicate(timeout=SECONDS)
    finally:
        command.kill()
    assert command.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "stopped before the end of the measurement"
    assert out == ""
    assert not runs.exists() or not list(runs.iterdir())
    _, left = psutil.wait_procs(processes, timeout=SECONDS)
    assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.faults
def test_ctrl_c_after_the_last_round_is_not_mistaken_for_its_end(make_experiment, tmp_path):
    said = []

    def interrupt(text):
        said.append(text)
        if said.count("1 worker: round 1 of 1") == 2:  # one that compiles, and one that is measured
            os.kill(os.getpid(), signal.SIGINT)

    runs = tmp_path / "runs"
    with pytest.raises(Interrupted):
        bench(make_experiment(runs), workers=(1, 2), rounds=1, progress=interrupt)
    assert not any(text.startswith("2 workers") for text in said)
    assert not list(runs.iterdir())


def test_missing_data_is_refused_before_the_measurement(make_experiment, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(make_experiment(tmp_path / "runs").to_toml())
    assert "holds no benchmark" in refused(tmp_path, "bench", job, "--against", "none.json")
    assert "must be numbers from 1 to 4096" in refused(tmp_path, "bench", job, "--workers", "0,2")
    assert "gone" in refused(tmp_path, "bench", job, "--set", "data.path=gone")


def test_too_many_workers_are_refused_before_the_measurement(make_experiment, tmp_path):
    said = []
    with pytest.raises(ClusterError, match=r"no room for the job: scaling.workers = 3"):
        bench(make_experiment(tmp_path / "runs"), workers=(1, 3), rounds=1, progress=said.append)
    assert said == ["connecting to Ray"]


def test_a_job_that_diverges_is_not_measured(make_experiment, tmp_path):
    experiment = make_experiment(tmp_path / "runs").with_overrides("training.learning_rate=10")
    with pytest.raises(NonFiniteError, match=r"training became non-finite in step \d+ of the measurement"):
        bench(experiment, workers=(1,), rounds=1)
