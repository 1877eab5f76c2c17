"""The examples of a user's flow and of a user's likelihood: trained, checked, evaluated and resumed."""

import json
import shutil
from pathlib import Path

import pytest
from command import run as vaedist

from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"
KEYS = {
    "model.hidden": 24, "model.latent": 4, "model.flow.depth": 2, "training.global_batch": 32, "training.epochs": 1,
    "training.eval_batch": 32, "scaling.cpus_per_worker": 1, "monitor.log_every": 5,
}  # fmt: skip
MORE = {"planar_flow": {}, "laplace_likelihood": {"model.flow.width": 12}}
CHECKS = {"planar_flow": 5, "laplace_likelihood": 11}  # the built-in flow has more checks

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.parametrize("name", MORE)
def test_an_example_is_trained_and_works_with_every_command(name, tmp_path, blob_data):
    shutil.copytree(EXAMPLES / name, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    keys = {"data.path": blob_data, "run.folder": "runs", **KEYS, **MORE[name]}
    train = ["train", "job.toml", "--name", "run", *(part for key in keys for part in ("--set", f"{key}={keys[key]}"))]
    here = {"cwd": tmp_path, "PYTHONPATH": "."}
    vaedist(*train, **here)
    run = RunFolder.at(tmp_path / "runs" / "run")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    elbos = [row["elbo"] for row in rows if row["kind"] == "train"]
    assert elbos[-1] > elbos[0]
    assert checkpoints_of(run).reached().packages.keys() == {name}
    out, _ = vaedist("check", run.path, **here)
    assert f"all {CHECKS[name]} checks passed" in out
    out, _ = vaedist("evaluate", run.path, "--samples", 4, "--limit", 32, "--json", **here)
    assert 0 < json.loads(out)["bits_per_dim"]["4"]["mean"] < 10
    vaedist("sample", run.path, "-n", 4, "--pixels", "sample", "-o", "samples.png", **here)
    assert (tmp_path / "samples.png").stat().st_size > 100
