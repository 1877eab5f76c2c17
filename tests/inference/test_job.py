"""Jobs and runs in other processes: on machines without the command's downloads, and in other folders."""

import inspect
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.errors import CheckpointError, ClusterError, ConfigError, DataError
from vaedist.inference.encode import encode_job
from vaedist.inference.generate import generate_job
from vaedist.monitor.pictures import save_png
from vaedist.runs.checkpoint import MARKER, STATE
from vaedist.storage.transfer import Store

SMALL = ("model.hidden=8", "model.latent=4", "model.flow.depth=0")


@pytest.fixture
def local(tmp_path, small_dataset, monkeypatch):
    """Returns the relative path of a run with two checkpoints, whose data path is relative, too."""
    (tmp_path / "data").symlink_to(small_dataset)
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "runs/x", Experiment().with_overrides("data.path=data", *SMALL), steps=(4, 8))
    return "runs/x"


@pytest.fixture
def remote(local, s3, tmp_path):
    """Returns the URI of a copy of that run on an object store."""
    uri = s3.uri(f"jobs/{tmp_path.name}")
    upload(local, uri)
    return uri


def upload(folder, uri):
    for path in (path for path in Path(folder).rglob("*") if path.is_file()):
        Store(uri).upload(path, path.relative_to(folder).as_posix())


def sent(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize("make", [lambda run: encode_job(run, split="test"), lambda run: generate_job(run, 5)])
def test_a_job_is_computed_without_the_downloads_and_the_folder_of_the_command(
    place, make, request, tmp_path, monkeypatch
):
    run = vaedist.load_run(request.getfixturevalue(place))
    here = make(run)
    expected, metadata = here.open()(here.parts[0]), here.metadata()
    job = sent(here)
    if place == "remote":
        shutil.rmtree(run.folder.path)
    monkeypatch.setenv("VAEDIST_CACHE", str(tmp_path / "other cache"))
    (tmp_path / "elsewhere/runs/x/checkpoints/step-000000008").mkdir(parents=True)  # another file of the same path
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert job.metadata() == metadata
    assert job.open()(job.parts[0]).equals(expected)
    np.testing.assert_array_equal(job.run.rows("test").read(0, 19), here.run.rows("test").read(0, 19))


def test_the_home_of_the_user_is_expanded_in_the_folder_of_images(local, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    save_png(tmp_path / "pictures/one.png", np.zeros((4, 6, 3), np.uint8))
    job = encode_job(vaedist.load_run(local), folder="~/pictures")
    assert job.open()(job.parts[0])["file"].to_pylist() == ["one.png"]


def test_a_moved_data_set_must_be_the_same_and_another_one_is_named(local, tmp_path):
    prepare(source(train=20, test=10), str(tmp_path / "other"), shards=4)
    with pytest.raises(DataError, match=r"^the data at other is not what the run was trained on: fingerprint "):
        encode_job(vaedist.load_run(local, data="other"))
    job = encode_job(vaedist.load_run(local), data="other")
    assert (job.parts.rows, job.options()["data"]) == (30, str(tmp_path / "other"))


def test_a_checkpoint_of_which_only_the_state_was_downloaded_is_downloaded(remote, tmp_path, monkeypatch):
    run = sent(vaedist.load_run(remote, checkpoint=4))
    monkeypatch.setenv("VAEDIST_CACHE", str(tmp_path / "other cache"))
    vaedist.load_run(remote, checkpoint=8)
    copies = {path.name for path in (tmp_path / "other cache").rglob("step-000000004/*")}
    assert copies == {STATE, MARKER}
    found = run.here()
    assert found.checkpoint.path.is_relative_to(tmp_path / "other cache")
    np.testing.assert_array_equal(found.sample(2), run.sample(2))


def test_a_checkpoint_that_is_here_needs_no_store(remote, s3):
    run = sent(vaedist.load_run(remote))
    s3.proxy.requests.clear()
    assert run.here().checkpoint == run.checkpoint
    assert s3.proxy.requests == []


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_checkpoint_that_was_replaced_is_not_used(place, request, tmp_path):
    location = request.getfixturevalue(place)
    run = sent(vaedist.load_run(location))
    shutil.rmtree("runs/x")
    other = Experiment().with_overrides("data.path=data", *SMALL, "seed=1")
    save_run(tmp_path / "runs/x", other, steps=(4, 8))
    if place == "remote":
        upload("runs/x", location)
        shutil.rmtree(run.folder.path)
    with pytest.raises(CheckpointError, match=r"checkpoint .*/step-\d+.* was replaced in the meantime"):
        run.here()


def test_the_method_takes_the_arguments_of_the_function():
    function, method = map(inspect.signature, (vaedist.encode_dataset, vaedist.Run.encode_dataset))
    wanted = [(name, one.default, one.annotation) for name, one in function.parameters.items() if name != "run"]
    assert [(name, one.default, one.annotation) for name, one in method.parameters.items() if name != "self"] == wanted


@pytest.mark.usefixtures("without_ray")
def test_a_dataset_is_computed_on_the_cluster_that_is_named(local, monkeypatch):
    run = vaedist.load_run(local)
    with pytest.raises(ClusterError, match=r"^no Ray cluster answers at 127.0.0.1:9: "):
        run.encode_dataset(address="127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"^RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:9: "):
        run.encode_dataset()
    with pytest.raises(ConfigError, match=r"^workers = 0: must be at least 1$"):
        run.encode_dataset(workers=0)
