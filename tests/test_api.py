"""Arguments of the Python API that are out of range raise errors of vaedist, with one line."""

import numpy as np
import pytest
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.errors import CheckpointError, ConfigError, DataError

SHAPE = (4, 8, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    prepare(source(train=20, test=19, shape=SHAPE), str(folder / "data"), shards=4)
    overrides = "model.type=resnet", "model.width=4", "model.latent=2", "model.levels=2", "model.blocks=1"
    experiment = Experiment().with_overrides(f"data.path={folder / 'data'}", *overrides)
    return vaedist.load_run(save_run(folder / "run", experiment).path)


@pytest.mark.parametrize("method", ["encode", "reconstruct", "progressive", "observed", "score"])
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, *SHAPE), np.uint8),
        np.zeros((2, 4, 8, 1), np.uint8),
        np.zeros((2, *SHAPE)),
        np.zeros(SHAPE, np.uint8),
    ],
    ids=["none", "channels", "floats", "one"],
)
def test_images_must_be_some_and_fit(run, method, images):
    with pytest.raises(DataError, match=r"^images must be uint8 of shape \[n, 4, 8, 3\] with n >= 1, not [^\n]*$"):
        getattr(run, method)(images)


def test_latents_must_be_some_and_fit(run):
    size = run.encode(np.zeros((1, *SHAPE), np.uint8)).shape[1]
    for z in (np.zeros((0, size)), np.zeros((2, size + 1)), np.zeros(size)):
        with pytest.raises(DataError, match=rf"^z must be of shape \[n, {size}\] with n >= 1, not [^\n]*$"):
            run.decode(z)
    assert run.decode(np.zeros((2, size))).shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": 0}, "count = 0: must be at least 1"),
        ({"count": -3}, "count = -3: must be at least 1"),
        ({"temperature": -0.1}, "temperature = -0.1: must be at least 0, and finite"),
        ({"temperature": float("nan")}, "temperature = nan: must be at least 0, and finite"),
        ({"temperature": float("inf")}, "temperature = inf: must be at least 0, and finite"),
        ({"pixels": "median"}, "pixels = 'median': must be 'mean' or 'sample'"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(run, options, says):
    with pytest.raises(ConfigError) as error:
        run.sample(**{"count": 2, **options})
    assert str(error.value) == says


def test_a_temperature_of_zero_is_allowed(run):
    assert run.sample(1, temperature=0.0).shape == (1, *SHAPE)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_not_replaced_by_another_unnoticed(run, tmp_path, name):
    folder = save_run(tmp_path / "run", run.experiment, steps=(4, 8))
    assert vaedist.load_run(folder.path).checkpoint.position.step == 8  # the best
    file = folder.checkpoints / "step-000000008" / name
    file.write_bytes(file.read_bytes()[:-1])
    for checkpoint in ("best", "newest"):
        with pytest.raises(CheckpointError, match=r"step-000000008.* choose the step of the checkpoint$"):
            vaedist.load_run(folder.path, checkpoint=checkpoint)
    assert vaedist.load_run(folder.path, checkpoint=4).checkpoint.position.step == 4


def test_a_run_and_its_evaluation_print_as_a_few_lines(run):
    assert repr(run) == f"<Run {run.folder.location}: resnet, step 4 (1 epoch)>"
    found = run.evaluate(samples=2, limit=8)
    title, *rows = str(found).splitlines()
    assert repr(found) == str(found)
    assert title == "Evaluation of 8 images, 2 samples of z each"
    assert rows[0].split() == ["ELBO", f"{found.elbo.mean:.3f}", "+-", f"{found.elbo.standard_error:.3f}", "nats"]
    assert [row.split("  ")[0] for row in rows] == [
        "ELBO", "log p(x) >= L_2", "Monte Carlo error", "L_2 - L_1", "effective samples", "gap", "reconstruction", "KL",
        "bits/dim <=", "active units", "active channels",
    ]  # fmt: skip
    assert len({row.index(row.partition("  ")[2].strip()) for row in rows}) == 1  # in one column
    assert str(found.against(found)).splitlines()[2].split() == ["ELBO", "0.000", "+-", "0.000", "nats"]
