"""The scripts in jobs/."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

JOBS = Path(__file__).parent.parent / "jobs"


def write_metrics(run, step_seconds, scores):
    """Writes the metrics of a run with 130 steps per epoch, in rows of 60 steps, the last of which is not complete."""
    run.mkdir()
    rows = []
    for epoch, score in enumerate(scores, 1):
        train = {"kind": "train", "epoch": epoch, "elbo": -1.0, "step_seconds": step_seconds}
        rows += [{**train, "step": 130 * (epoch - 1) + step} for step in (60, 120)]
        rows.append({"kind": "test", "epoch": epoch, "step": 130 * epoch, **score})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def curves(out, *runs):
    words = [sys.executable, JOBS / "curves.py", *runs, "--out", out, "--minutes", "3", "5"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def test_curves_tabulate_the_last_score_before_each_time(tmp_path):
    write_metrics(tmp_path / "quick", 0.5, [{"elbo": -9.0, "bits_per_dim": bits} for bits in (6.0, 5.0, 4.5)])
    write_metrics(tmp_path / "slow", 2.0, [{"elbo": -8.0, "bits_per_dim": 5.5}])
    lines = curves(tmp_path / "curves.png", tmp_path / "quick", tmp_path / "slow")
    assert lines == [
        "| minutes | quick | slow |",
        "|---|---|---|",
        "| 3 | 5.000 (step 260) |  |",
        "| 5 | 4.500 (step 390) | 5.500 (step 130) |",
        "| end | 4.500 (step 390) | 5.500 (step 130) |",
    ]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 2 * picture.height


def test_runs_of_the_same_name_have_curves_of_their_own(tmp_path):
    for folder, bits in (("a", 6.0), ("b", 5.0)):
        (tmp_path / folder).mkdir()
        write_metrics(tmp_path / folder / "run", 1.0, [{"elbo": -9.0, "bits_per_dim": bits}])
    lines = curves(tmp_path / "curves.png", tmp_path / "a/run", tmp_path / "b/run")
    assert lines[-1] == "| end | 6.000 (step 130) | 5.000 (step 130) |"


def test_curves_show_the_elbo_unless_all_runs_have_bits_per_dim(tmp_path):
    write_metrics(tmp_path / "grey", 1.0, [{"elbo": -9.0, "bits_per_dim": 6.0}])
    write_metrics(tmp_path / "binary", 1.0, [{"elbo": -80.0}])
    lines = curves(tmp_path / "curves.png", tmp_path / "grey", tmp_path / "binary")
    assert lines[-1] == "| end | -9.000 (step 130) | -80.000 (step 130) |"
