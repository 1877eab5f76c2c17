"""The example of a model of one's own, as a user meets it: trained, disturbed, resumed, scored, proven and tuned."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command import run as vaedist

from vaedist.config import Experiment, Sweep
from vaedist.errors import RunError
from vaedist.launch.training.trainer import train
from vaedist.launch.tuning.sweep import tune
from vaedist.monitor.events import Notice, Progress
from vaedist.runs.checkpoint_store import checkpoints_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "conv_vae"
SMALL = [
    "model.width=4",
    "model.latent=8",
    "training.global_batch=16",
    "training.eval_batch=32",
    "scaling.cpus_per_worker=1",
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the example, whose package can be imported here."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "runs", "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "conv_vae"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def experiment(package, blob_data, tmp_path_factory):
    """Two workers, 2 epochs of 100 steps, a checkpoint every 30."""
    places = [f"data.path={blob_data}", f"run.folder={tmp_path_factory.mktemp('runs')}"]
    more = ["scaling.workers=2", "training.epochs=2", "checkpoint.every_steps=30", "monitor.log_every=5"]
    return Experiment.from_file(package / "job.toml", [*places, *SMALL, *more])


@pytest.fixture(scope="module")
def trained(cluster, experiment):
    """The run as nothing disturbs it."""
    return train(experiment.with_values({"run.name": "trained"}))


def test_the_example_is_short():
    assert len((EXAMPLE / "conv_vae" / "__init__.py").read_text().splitlines()) < 120


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_learn_and_a_killed_one_changes_nothing(trained, experiment, processes):
    killed, events = [], []

    def kill(event):
        events.append(event)
        if isinstance(event, Progress) and event.step >= 75 and not killed:
            killed.append(processes("RayTrainWorker")[-1])
            killed[-1].kill()

    run = train(experiment.with_values({"run.name": "killed"}), observe=kill)
    assert len(killed) == 1
    assert any(isinstance(event, Notice) and "starting again" in event.text for event in events)
    weights, expected = (checkpoints_of(each).newest().weights() for each in (run, trained))
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)
    rows = [json.loads(line) for line in trained.metrics.read_text().splitlines()]
    elbos = [row["elbo"] for row in rows if row["kind"] == "train"]
    assert elbos[-1] > elbos[0]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_resumed_with_its_own_code_only_unless_the_user_says_so(trained, experiment, package):
    longer = experiment.with_values({"run.name": "trained", "training.epochs": 3})
    module = package / "conv_vae" / "__init__.py"
    text = module.read_text()
    module.write_text(text + "\n# another version\n")
    try:
        with pytest.raises(RunError, match=r"was trained with package conv_vae .* --changed-code resumes"):
            train(longer, resume=True)
    finally:
        module.write_text(text)
    position = checkpoints_of(trained).reached()
    assert (position.epoch, list(position.packages)) == (2, ["conv_vae"])


@pytest.mark.ray
@pytest.mark.slow
def test_every_command_takes_it(trained, package, tmp_path):
    path = {"PYTHONPATH": str(package)}
    out, _ = vaedist("evaluate", trained.path, "--samples", 4, "--limit", 32, "--json", **path)
    assert json.loads(out)["bits_per_dim"]["4"]["mean"] < 8.1
    out, _ = vaedist("check", trained.path, **path)
    assert "all 4 checks passed" in out
    for command in ("sample", "reconstruct"):
        vaedist(command, trained.path, "-n", 4, "-o", tmp_path / f"{command}.png", **path)
        assert (tmp_path / f"{command}.png").stat().st_size > 100


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_varies_its_own_keys(cluster, experiment, tmp_path):
    tables = experiment.with_values({"run.name": "sweep", "run.folder": str(tmp_path), "scaling.workers": 1,
                                     "training.epochs": 1}).model_dump(exclude_none=True)  # fmt: skip
    sweep = Sweep.from_dict({**tables, "tune": {"search": "grid", "space": {"model.width": {"grid": [2, 4]}}}})
    folder = tune(sweep)
    trials = folder.read_trials()
    assert sorted(trial.params["model.width"] for trial in trials) == [2, 4]
    assert all(trial.state == "done" for trial in trials)
