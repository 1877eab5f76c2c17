"""A sweep on an S3 server: its log is uploaded, and its trials' runs are read from there."""

import pytest

from vaedist.config import Sweep
from vaedist.monitor.metrics import MetricsLog
from vaedist.storage.transfer import Store
from vaedist.sweeps import SweepFolder, TrialLog
from vaedist.sweeps.report import write_report

PARAMS = {"model.flow.depth": 0}
ROW = {"elbo": -1.0, "reconstruction": -0.5, "kl": 0.5, "train_elbo": -1.0, "best": True}


@pytest.fixture
def sweep(s3):
    return Sweep.from_dict(
        {
            "run": {"name": "sweep", "folder": s3.uri("remote-sweeps")},
            "tune": {"search": "grid", "space": {"model.flow.depth": {"grid": [0, 1]}}},
        }
    )


def test_the_log_is_uploaded_and_the_trials_are_read_from_the_store(sweep, tmp_path):
    folder, store = SweepFolder.of(sweep), Store(SweepFolder.of(sweep).location)
    store.write("sweep.toml", sweep.to_toml().encode())
    with folder.workspace(print) as working:
        log = TrialLog.open(working)
        trial = log.add(0, PARAMS)
        log.set(0, "running")
        metrics = MetricsLog(tmp_path / "metrics.jsonl", resume_step=None)  # as a trial's worker uploads it
        metrics.append("test", 1, 100, ROW)
        metrics.close()
        store.upload(tmp_path / "metrics.jsonl", f"{trial.name}/metrics.jsonl")
        trial.run.refresh()
        assert [epoch.elbo for epoch in log.set(0, "finished").epochs] == [-1.0]
        (trial.run.path / "metrics.jsonl").write_text("older\n")
    assert not working.path.exists()
    assert store.read(f"{trial.name}/metrics.jsonl") == (tmp_path / "metrics.jsonl").read_bytes()

    folder.refresh()
    (found,) = folder.read_trials()
    assert (found.state, found.starts, [epoch.step for epoch in found.epochs]) == ("finished", 1, [100])
    assert found.run.location == f"{folder.location.partition('?')[0]}/{trial.name}?{folder.location.partition('?')[2]}"

    write_report(folder)
    assert {"report.md", "results.csv", "results.json", "plots/curves.png"} <= set(store.files())
    store.remove("trials.jsonl")
    folder.refresh()
    assert folder.read_trials() == []
