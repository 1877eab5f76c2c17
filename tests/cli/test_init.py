"""`vaedist init`."""

import tomllib

import pytest
from click.testing import CliRunner
from command import refused, run

from vaedist.cli import main
from vaedist.config import Experiment
from vaedist.config.starter import VALUES, starter_job


def invoke(*arguments, **options):
    return CliRunner().invoke(main, ["init", *map(str, arguments)], prog_name="vaedist", **options)


@pytest.mark.parametrize("model", VALUES)
@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_a_job_is_valid_and_explains_each_key(model, size):
    text = starter_job("data/own", model, size, "job.toml")
    tables = tomllib.loads(text)
    experiment = Experiment.from_toml(text)
    assert (experiment.data.path, experiment.model.type) == ("data/own", model)
    assert tables["training"]["epochs"] == experiment.training.epochs
    lines = text.splitlines()
    assignments = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert assignments
    assert all(lines[number - 1].startswith("# ") for number in assignments)
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(("images", "epochs"), [(54, 500), (10_000, 20), (None, 20)])
def test_few_images_are_seen_in_more_epochs(images, epochs):
    text = starter_job("data/own", "resnet", "small", "job.toml", images)  # batches of 16
    assert Experiment.from_toml(text).training.epochs == epochs


def test_a_job_is_written_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("my job.toml", "--model", "resnet", "--size", "medium", "--data", "s3://bucket/own")
    assert done.exit_code == 0, done.output
    assert "vaedist train 'my job.toml'" in done.stdout
    written = (tmp_path / "my job.toml").read_text()
    assert Experiment.from_toml(written).data.path == "s3://bucket/own"
    assert "my job.toml exists already" in refused(tmp_path, "init", "my job.toml")
    assert (tmp_path / "my job.toml").read_text() == written


def test_nothing_is_asked_without_a_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(input="")
    assert done.exit_code == 0
    assert "prepare the data" in done.stdout
    assert Experiment.from_file(tmp_path / "job.toml").model.type == "mlp"


def test_bad_answers_leave_nothing(tmp_path):
    assert "'tiny' is not one of" in refused(tmp_path, "init", "--size", "tiny")
    assert "data.path" in refused(tmp_path, "init", "--data", "x" * 256)
    assert "cannot write" in refused(tmp_path, "init", "none/job.toml")


def test_data_that_the_model_cannot_process_are_refused(tmp_path, small_dataset):
    assert "choose another --model" in refused(tmp_path, "init", "--data", small_dataset, "--model", "resnet")
    done = invoke(tmp_path / "job.toml", "--data", small_dataset)
    assert done.exit_code == 0
    assert "prepare the data" not in done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_a_written_job_trains(tmp_path, small_dataset):
    job = tmp_path / "job.toml"
    assert invoke(job, "--model", "mlp", "--data", small_dataset).exit_code == 0
    run("train", job, "--runs", tmp_path / "runs", "--set", "training.epochs=1", "--set", "training.global_batch=16")
    assert (tmp_path / "runs" / "job" / "pictures" / "samples.png").exists()
