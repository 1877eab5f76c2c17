"""Runs, trials and clusters that cannot be read are listed with the reason, among the others."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from vaedist.cli import main
from vaedist.config import Experiment, Sweep
from vaedist.errors import ClusterError
from vaedist.launch.local import nodes as local_nodes
from vaedist.launch.local.cluster import LocalCluster, get_cluster, local_clusters
from vaedist.monitor.metrics import MetricsLog
from vaedist.runs.folder import RunFolder
from vaedist.storage.transfer import Store
from vaedist.storage.uri import join_uri
from vaedist.sweeps import SweepFolder, TrialLog


def write_run(folder, experiment):
    folder.path.mkdir(parents=True)
    folder.experiment.write_text(experiment.to_toml())
    log = MetricsLog(folder.metrics, resume_step=None)
    for epoch in (1, 2):
        log.append("train", epoch, 10 * epoch, {"elbo": -9.0})
        log.append("test", epoch, 10 * epoch, {"elbo": -10.0 + epoch})
    log.close()


def emptied(run):
    run.experiment.write_bytes(b"")


def newer(run):
    run.experiment.write_text(run.experiment.read_text() + "\n[future]\nkey = 1\n")


def cut(run):
    run.experiment.write_bytes(run.experiment.read_bytes()[:-3])


def binary(run):
    run.experiment.write_bytes(bytes(range(256)))


def lost(run):
    run.experiment.unlink()


def a_folder(run):
    run.experiment.unlink()
    run.experiment.mkdir()


def a_loop(run):
    run.experiment.unlink()
    run.experiment.symlink_to(run.experiment)


def binary_metrics(run):
    run.metrics.write_bytes(bytes(range(256)) * 9)


def torn_in_the_middle(run):
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text(lines[0] + lines[1][:9] + "\n" + "".join(lines[2:]))


def a_folder_of_metrics(run):
    run.metrics.unlink()
    run.metrics.mkdir()


def beyond_all_numbers(run):
    with run.metrics.open("a") as file:
        file.write('{"kind": "test", "epoch": 3, "step": 30, "elbo": 1' + "0" * 400 + "}\n")


BROKEN = {
    emptied: "experiment.toml is empty",
    newer: "unknown key 'future'",
    cut: "not valid TOML",
    binary: "not UTF-8 text",
    lost: "it has no experiment.toml",
    a_folder: "Is a directory",
    a_loop: "Too many levels of symbolic links",
    binary_metrics: "line 1 is not a row of metrics",
    torn_in_the_middle: "line 2 is not a row of metrics",
    a_folder_of_metrics: "Is a directory",
    beyond_all_numbers: "too large",
}


@pytest.fixture
def runs(tmp_path):
    """Returns a folder with one run per kind of damage, and two intact ones."""
    for name in ("well", "torn", *(breaks.__name__ for breaks in BROKEN)):
        write_run(RunFolder.at(tmp_path / "runs" / name), Experiment().with_overrides(f"run.name={name}"))
    with (tmp_path / "runs" / "torn" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "test", "epoch": 3, "st\0\0\0')  # as after a crash in the middle of a row
    for breaks in BROKEN:
        breaks(RunFolder.at(tmp_path / "runs" / breaks.__name__))
    (tmp_path / "runs" / "no-run").mkdir()
    return tmp_path / "runs"


def test_all_runs_are_listed_and_broken_ones_with_the_reason(runs):
    ended = CliRunner().invoke(main, ["runs", "list", str(runs), "--json"])
    assert ended.exit_code == 0, ended.output
    listed = {row["name"]: row for row in json.loads(ended.stdout)}
    assert listed.keys() == {"well", "torn", *(breaks.__name__ for breaks in BROKEN)}
    for breaks, says in BROKEN.items():
        assert says in listed[breaks.__name__]["error"], breaks
        assert "\n" not in listed[breaks.__name__]["error"]
    for name in ("well", "torn"):  # complete rows are read
        assert "error" not in listed[name]
        assert (listed[name]["epoch"], listed[name]["step"], listed[name]["best_elbo"]) == (2, 20, -8.0)

    ended = CliRunner().invoke(main, ["runs", "list", str(runs)])
    assert ended.exit_code == 0
    assert ended.stderr == f"warning: {len(BROKEN)} of {len(listed)} runs cannot be read\n"
    for name in listed:
        assert f" {name} " in ended.stdout
    for says in BROKEN.values():
        assert " ".join(says.split()[:2]) in ended.stdout


def test_a_folder_of_nothing_but_broken_runs_is_listed_too(runs, tmp_path):
    (tmp_path / "only").mkdir()
    (runs / "cut").replace(tmp_path / "only" / "cut")
    ended = CliRunner().invoke(main, ["runs", "list", str(tmp_path / "only")])
    assert (ended.exit_code, ended.stderr) == (0, "warning: 1 of 1 runs cannot be read\n")
    assert "not valid TOML" in ended.stdout


@pytest.mark.parametrize("breaks", BROKEN)
def test_a_broken_run_alone_is_one_line(runs, breaks):
    ended = CliRunner().invoke(main, ["runs", "show", str(runs / breaks.__name__)])
    assert ended.exit_code == 2
    assert ended.output.startswith("error: ")
    assert ended.output.count("\n") == 1


def test_runs_of_a_store_are_listed_likewise(runs, s3, tmp_path):
    uri = s3.uri(tmp_path.name)
    for name in ("well", "torn", "newer", "emptied", "lost", "torn_in_the_middle"):
        store = Store(join_uri(uri, name))
        for path in (runs / name).iterdir():
            store.upload(path, path.name)
    ended = CliRunner().invoke(main, ["runs", "list", uri, "--json"])
    listed = {row["name"]: row.get("error", "") for row in json.loads(ended.stdout)}
    assert {name for name, error in listed.items() if not error} == {"well", "torn"}
    assert "unknown key 'future'" in listed["newer"]
    assert listed.keys() == {"well", "torn", "newer", "emptied", "lost", "torn_in_the_middle"}


LIST = """
import json, os, sys
from vaedist.runs.summary import summarize_all
summarize_all(sys.argv[1])  # loads what may not be read afterwards
if os.geteuid() == 0:  # who may read everything
    os.seteuid(65534)
print(json.dumps({one.name: getattr(one, "error", "") for one in summarize_all(sys.argv[1])}))
"""


def test_runs_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for run in ("well", "experiment", "metrics", "folder"):
            write_run(RunFolder.at(place / run), Experiment())
        for path in ("experiment/experiment.toml", "metrics/metrics.jsonl", "folder"):
            (place / path).chmod(0)
        ended = subprocess.run([sys.executable, "-c", LIST, name], capture_output=True, text=True, check=True)
        (place / "folder").chmod(0o755)
    errors = json.loads(ended.stdout)
    assert errors.pop("well") == ""
    assert len(errors) == 3
    assert all("Permission denied" in error for error in errors.values())


@pytest.fixture
def sweep(tmp_path):
    """Returns a sweep of three trials that have ended."""
    space = {"model.latent": {"grid": [2, 4, 8]}}
    tables = {"run": {"name": "sweep", "folder": str(tmp_path)}, "training": {"epochs": 2}}
    made = Sweep.from_dict(tables | {"tune": {"search": "grid", "scheduler": "none", "space": space}})
    folder = SweepFolder.of(made)
    folder.path.mkdir()
    folder.sweep.write_text(made.to_toml())
    log = TrialLog(folder)
    for number in range(3):
        trial = log.add(number, made.drawn(number))
        write_run(trial.run, made.experiment(trial.params, name=trial.name, folder=folder.location))
        log.set(number, "running")
        log.set(number, "finished")
    return folder


@pytest.mark.parametrize("breaks", [torn_in_the_middle, a_folder_of_metrics, newer])
def test_a_broken_trial_is_a_row_of_the_report_like_the_others(sweep, breaks):
    breaks(sweep.read_trials()[1].run)
    with sweep.trials.open("ab") as file:
        file.write(b'{"trial": 2, "sta')  # truncated
    ended = CliRunner().invoke(main, ["tune", "report", str(sweep.path)])
    assert ended.exit_code == 0, ended.output
    rows = json.loads((sweep.path / "results.json").read_text())["trials"]
    told = [(row["best"], row["reason"]) for row in rows]
    assert told[0] == told[2] == (-8.0, "")
    if breaks is newer:  # a report needs only the metrics
        assert told[1] == told[0]
    else:
        assert told[1][0] is None
        assert BROKEN[breaks] in told[1][1]
        assert BROKEN[breaks] in (sweep.path / "report.md").read_text()


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    """Returns the folder of the records of this machine's clusters, with an intact one."""
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path))
    LocalCluster("well", "m", "127.0.0.1:6379", "http://127.0.0.1:8265", "/t", "/s").save()
    return tmp_path / "clusters"


@pytest.mark.parametrize(
    "record", [b"", b"[]", b'"text"', b"{", b"\xff\xfe", b'{"name": 3, "nodes": [{"pid": "x"}]}', None]
)
def test_a_broken_record_of_a_cluster_is_named_and_hides_no_other(clusters, record):
    (clusters / "bad").mkdir()
    if record is not None:
        (clusters / "bad" / "cluster.json").write_bytes(record)
    assert [cluster.name for cluster in local_clusters()] == ["well"]
    assert get_cluster("well").address == "127.0.0.1:6379"
    for command in ("status", "down"):
        ended = CliRunner().invoke(main, ["cluster", command, "--name", "bad"])
        assert ended.exit_code == 2
        assert f"{clusters}/bad/cluster.json is missing or cannot be read" in ended.output
    with pytest.raises(ClusterError, match="there is a cluster 'bad'"):
        local_nodes.up("bad")
    with pytest.raises(ClusterError, match=r"no local cluster 'none' \(there: well\)"):
        get_cluster("none")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"format": 2}', None])
def test_a_broken_manifest_is_one_line(tmp_path, content):
    (tmp_path / "data").mkdir()
    manifest = tmp_path / "data" / "manifest.json"
    manifest.write_bytes(content) if content is not None else manifest.mkdir()
    for command in ("inspect", "verify"):
        ended = CliRunner().invoke(main, ["data", command, str(tmp_path / "data")])
        assert ended.exit_code == 2
        assert ended.output.startswith("error: ")
        assert "manifest.json" in ended.output
        assert ended.output.count("\n") == 1
