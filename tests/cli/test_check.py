"""The command `vaedist check`."""

import json

import pytest
from command import refused, run

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
    """Runs in a separate process, because the command configures TensorFlow's devices."""
    out, err = run("check", job, "--set", "model.likelihood=gaussian", "--json")
    assert err == ""
    found = json.loads(out)
    assert [each["passed"] for each in found] == [True] * 9
    assert all(each["error"] <= each["allowed"] for each in found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("empty", "--set", "seed=1"), "error: --set is for a job, not for a run"),
        (("job.toml", "--no-ema"), "error: --ema is for a run, not for a job"),
        (("job.toml", "--checkpoint", "newest"), "error: --checkpoint is for a run, not for a job"),
    ],
)
def test_invalid_options_are_refused(job, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    assert says in refused(tmp_path, "check", *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.toml",), "error: no job file at"),
        pytest.param(("empty",), "error: no run at", marks=pytest.mark.slow),
        pytest.param(("job.toml", "--data", "nowhere"), "error: no data set at", marks=pytest.mark.slow),
        pytest.param(("job.toml", "--set", "data.binarize=dynamic"), "is for grey images", marks=pytest.mark.slow),
    ],
)
def test_models_that_cannot_be_checked_are_refused(job, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    out, err = run("check", *arguments, cwd=tmp_path, code=2)
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "job.toml"]
