"""The commands of docs/clusters.md from the installation to the curves, line by line in a shell."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent.parent
SECONDS = 600  # timeout of a line

# Appended to lines, so that they take seconds: less data, fewer epochs, and no installation over the tested code.
SMALLER = {
    "pip install": " --dry-run --quiet",
    "vaedist data prepare": " --train 1600 --test 96 --shards 4",
    "vaedist submit": " --set training.epochs=2 --set model.hidden=32 --set model.flow.width=32",
    "vaedist tensorboard": " --port 0",
}


def lines():
    """Returns the commands of a section."""
    page = (ROOT / "docs/clusters.md").read_text()
    section = page.partition("\n## From installation to curves\n")[2].partition("\n## ")[0]
    block = re.search(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL).group(1)
    return [line.partition("   #")[0].strip() for line in block.splitlines()]


def test_every_line_of_the_page_works(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEDIST_STATE", str(tmp_path / "state"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = []
    try:
        for line in lines():
            if line.startswith("export STORE="):
                environment["STORE"] = str(tmp_path / "store")
                continue
            smaller = next((more for begin, more in SMALLER.items() if line.startswith(begin)), "")
            command = ["bash", "-c", line + smaller]
            if line.startswith("vaedist tensorboard"):
                look_at_curves(command, environment)
            else:
                ran = subprocess.run(
                    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
                )
                assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
            done.append(" ".join(line.split()[:2]))
    finally:
        from vaedist.launch.local.cluster import local_clusters
        from vaedist.launch.local.nodes import end

        for left in local_clusters():
            end(left)
    assert done[:2] == ["pip install", "vaedist cluster"]
    assert {"vaedist submit", "vaedist tensorboard", "vaedist jobs", "vaedist doctor"} <= set(done)


def look_at_curves(command, environment):
    """TensorBoard has the run's curve of the test ELBO."""
    board = subprocess.Popen(
        ["bash", "-c", f"exec {command[2]}"], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        url = next(found.group() for line in board.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            tags = requests.get(f"{url}/data/plugin/scalars/tags", timeout=60).json()
            runs = [run for run, names in tags.items() if run.endswith("/test") and "elbo" in names]
            if runs:
                points = requests.get(
                    f"{url}/data/plugin/scalars/scalars", params={"run": runs[0], "tag": "elbo"}, timeout=60
                ).json()
                assert len(points) == 2, json.dumps(points)
                return
            time.sleep(0.5)
        pytest.fail("TensorBoard shows no curve")
    finally:
        board.terminate()
        board.wait(timeout=60)
