"""The example of a user's model: trained, disturbed, resumed, evaluated, checked and tuned."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset
import pytest
import tomli_w
from command import run as vaedist
from command import start
from PIL import Image

from vaedist import load_run
from vaedist.monitor.pictures import to_uint8
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder

EXAMPLE = Path(__file__).parents[2] / "examples" / "conv_vae"
# Two workers, 2 epochs of 100 steps, a checkpoint every 30.
KEYS = {
    "model.width": 4, "model.latent": 8, "training.global_batch": 16, "training.eval_batch": 32, "training.epochs": 2,
    "scaling.workers": 2, "scaling.cpus_per_worker": 1, "checkpoint.every_steps": 30, "monitor.log_every": 5,
}  # fmt: skip

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a copy of the example, the folder that commands run in."""
    copy = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "runs", "data"))
    return copy


@pytest.fixture(scope="module")
def arguments(blob_data):
    """Returns options for `vaedist train` and `vaedist tune run`."""
    keys = {"data.path": blob_data, "run.folder": "runs", **KEYS}
    return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def trained(folder, arguments):
    """Returns the undisturbed run."""
    vaedist("train", "job.toml", "--name", "trained", *arguments, cwd=folder, PYTHONPATH=".")
    return RunFolder.at(folder / "runs" / "trained")


def rows(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()] if run.metrics.exists() else []


@pytest.mark.faults
def test_a_killed_worker_changes_nothing(trained, folder, arguments):
    run = RunFolder.at(folder / "runs" / "killed")
    command = start("train", "job.toml", "--name", "killed", *arguments, cwd=folder, PYTHONPATH=".")
    deadline = time.monotonic() + 300
    while not any(row["step"] >= 75 for row in rows(run)):
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = [
        process
        for process in psutil.Process(command.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    workers[-1].kill()
    said = "".join(command.communicate(timeout=300))
    assert command.returncode == 0, said
    assert "restarting from the newest checkpoint" in said
    weights, expected = (checkpoints_of(each).newest().weights() for each in (run, trained))
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)
    elbos = [row["elbo"] for row in rows(trained) if row["kind"] == "train"]
    assert elbos[-1] > elbos[0]


def test_a_run_is_resumed_with_unchanged_code_unless_the_user_allows_changes(trained, folder, arguments):
    shutil.copytree(trained.path, folder / "runs" / "longer")
    resume = ["train", "job.toml", "--name", "longer", *arguments, "--set", "training.epochs=3", "--resume"]
    module = folder / "conv_vae" / "__init__.py"
    text = module.read_text()
    module.write_text(text + "\n# another version\n")
    try:
        _, said = vaedist(*resume, cwd=folder, code=2, PYTHONPATH=".")
        assert "was trained with package conv_vae" in said
        assert "--changed-code resumes" in said
        vaedist(*resume, "--changed-code", cwd=folder, PYTHONPATH=".")
    finally:
        module.write_text(text)
    before, after = (checkpoints_of(RunFolder.at(folder / "runs" / name)).reached() for name in ("trained", "longer"))
    assert (before.epoch, after.epoch) == (2, 3)
    assert before.packages["conv_vae"] != after.packages["conv_vae"]


def test_every_command_accepts_the_model(trained, folder):
    out, _ = vaedist("evaluate", trained.path, "--samples", 4, "--limit", 32, "--json", cwd=folder, PYTHONPATH=".")
    assert 0 < json.loads(out)["bits_per_dim"]["4"]["mean"] < 9
    out, _ = vaedist("check", trained.path, cwd=folder, PYTHONPATH=".")
    assert "all 4 checks passed" in out
    for command in ("sample", "reconstruct"):
        vaedist(command, trained.path, "-n", 4, "-o", f"{command}.png", cwd=folder, PYTHONPATH=".")
        assert (folder / f"{command}.png").stat().st_size > 100


def test_workers_encode_and_generate_with_it(trained, folder, monkeypatch):
    vaedist("encode", trained.path, "-o", "encoded", "--split", "test", "--workers", 2, cwd=folder, PYTHONPATH=".")
    vaedist("generate", trained.path, "-o", "generated", "-n", 5, "--format", "png", "--workers", 1,
            cwd=folder, PYTHONPATH=".")  # fmt: skip
    monkeypatch.syspath_prepend(folder)
    run = load_run(trained.path)
    table = pyarrow.dataset.dataset(folder / "encoded").to_table().sort_by("row")
    rows = run.rows("test")
    images = rows.read(0, rows.rows)[np.argsort(rows.numbers(0, rows.rows))]
    np.testing.assert_allclose(np.stack(table["z"].to_pylist()), run.encode(images), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(table["elbo"], run.score(images).elbo, rtol=1e-4)
    drawn = np.stack([np.asarray(Image.open(folder / "generated" / f"{i}.png")) for i in range(5)])
    assert np.abs(drawn.astype(int) - to_uint8(run.sample(5))).max() <= 1


def test_a_sweep_varies_its_keys(folder, blob_data):
    keys = KEYS | {"scaling.workers": 1, "training.epochs": 1, "data.path": str(blob_data), "run.folder": "runs"}
    job = {
        "model": {"type": "conv_vae:ConvVAE"},
        "tune": {"search": "grid", "space": {"model.width": {"grid": [2, 4]}}},
    }
    for key, value in keys.items():
        section, _, name = key.partition(".")
        job.setdefault(section, {})[name] = value
    (folder / "sweep.toml").write_text(tomli_w.dumps(job))
    vaedist("tune", "run", "sweep.toml", cwd=folder, PYTHONPATH=".")
    vaedist("tune", "best", "runs/sweep", "-o", "best.toml", cwd=folder, PYTHONPATH=".")
    out, _ = vaedist("config", "show", "best.toml", cwd=folder, PYTHONPATH=".")
    assert 'type = "conv_vae:ConvVAE"' in out
