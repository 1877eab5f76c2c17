"""The examples of a user's flow and of a user's likelihood, in one model: trained, checked, evaluated and sampled."""

import json
import shutil
from pathlib import Path

import pytest
from command import run as vaedist

from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = ("planar_flow", "laplace_likelihood")
KEYS = {
    "model.hidden": 24, "model.latent": 4, "model.flow.depth": 2, "model.likelihood": "laplace_likelihood:Laplace",
    "training.global_batch": 32, "training.epochs": 1, "training.eval_batch": 32, "scaling.cpus_per_worker": 1,
    "monitor.log_every": 5, "run.folder": "runs",
}  # fmt: skip

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def here(tmp_path):
    """Returns options of commands that run in a folder with both packages and the job of the flow."""
    for name in PACKAGES:
        shutil.copytree(EXAMPLES / name / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLES / "planar_flow" / "job.toml", tmp_path)
    return {"cwd": tmp_path, "PYTHONPATH": "."}


def test_the_examples_are_trained_together_and_work_with_every_command(here, tmp_path, blob_data):
    keys = {"data.path": blob_data, **KEYS}
    vaedist("train", "job.toml", "--name", "run", *(w for k, v in keys.items() for w in ("--set", f"{k}={v}")), **here)
    run = RunFolder.at(tmp_path / "runs" / "run")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    elbos = [row["elbo"] for row in rows if row["kind"] == "train"]
    assert elbos[-1] > elbos[0]
    assert checkpoints_of(run).reached().packages.keys() == set(PACKAGES)
    out, _ = vaedist("check", run.path, **here)
    assert "all 5 checks passed" in out
    out, _ = vaedist("evaluate", run.path, "--samples", 4, "--limit", 32, "--json", **here)
    assert 0 < json.loads(out)["bits_per_dim"]["4"]["mean"] < 10
    vaedist("sample", run.path, "-n", 4, "--pixels", "sample", "-o", "samples.png", **here)
    assert (tmp_path / "samples.png").stat().st_size > 100
