"""`vaedist check`, as a user calls it."""

import json

import pytest
from click.testing import CliRunner
from command import refused

from vaedist.cli import main

JOB = """
[data]
path = "{data}"

[model]
hidden = 8
latent = 4

[model.flow]
depth = 1
width = 5
"""


@pytest.fixture
def job(tmp_path, small_dataset):
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(data=small_dataset))
    return path


def test_a_job_is_checked(job):
    done = CliRunner().invoke(main, ["check", str(job), "--set", "model.likelihood=gaussian", "--json"])
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    found = json.loads(done.stdout)
    assert [each["passed"] for each in found] == [True] * 9
    assert all(each["error"] <= each["allowed"] for each in found)


def test_what_cannot_be_checked_is_refused(job, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, says in {
        (tmp_path / "nowhere.toml",): "error: no job file at",
        (tmp_path / "empty",): "error: no run at",
        (tmp_path / "empty", "--set", "seed=1"): "error: --set goes with a job, not with a run",
        (job, "--no-ema"): "error: --ema goes with a run, not with a job",
        (job, "--checkpoint", "newest"): "error: --checkpoint goes with a run, not with a job",
        (job, "--data", tmp_path / "nowhere"): "error: no data set at",
        (job, "--set", "data.binarize=dynamic"): "is for grey images",
    }.items():
        assert says in refused(tmp_path, "check", *arguments)
