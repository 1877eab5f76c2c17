"""Tests of the script that checks vaedist on a GPU: parts fail and time out by themselves, and the report says so."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).with_name("run.py")
GOOD = "import json; print('some output'); print(json.dumps({'': [['a', 'b'], [1, 2]], 'more': [['c'], [3]]}))"
BAD = "import sys; print('{\"\": [[\"a\"], [1]]}'); print('losses differ by 1.0e-01'); sys.exit(1)"
SLOW = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_run"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_run"]


def parts(script, **codes):
    return {name: script.Part(f"Part {name}", 20, ("-c", code)) for name, code in codes.items()}


def test_a_part_that_fails_does_not_end_the_others(script, tmp_path):
    good, bad = script.at_once(parts(script, good=GOOD, bad=BAD), tmp_path, slower=1)
    assert good["passed"]
    assert good["tables"] == {"": [["a", "b"], [1, 2]], "more": [["c"], [3]]}
    assert not bad["passed"]
    assert bad["fault"] == "losses differ by 1.0e-01"
    assert bad["tables"] == {"": [["a"], [1]]}
    assert "some output" in (tmp_path / "good.log").read_text()


def test_a_part_that_exceeds_its_limit_is_killed_with_all_that_it_started(script, tmp_path):
    begun = time.monotonic()
    result = script.run(script.Part("Slow", 2, ("-c", SLOW)), tmp_path / "slow.log", 2)
    assert result["fault"] == "not finished after 2 s"
    assert time.monotonic() - begun < 60
    (child,) = map(int, (tmp_path / "slow.log").read_text().split())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_report_shows_tables_and_faults(script, tmp_path):
    chosen = parts(script, good=GOOD, bad=BAD)
    results = script.at_once(chosen, tmp_path, slower=1)
    found = {name: {"title": chosen[name].title, **one} for name, one in zip(chosen, results, strict=True)}
    text = script.markdown({"device": "cpu", "machine": script.machine(), "parts": json.loads(json.dumps(found))})
    assert text.startswith("# vaedist on ")
    assert "## Part good\n\npassed, " in text
    assert "more:\n\n| c |\n|---|\n| 3 |\n" in text
    assert "**failed**: losses differ by 1.0e-01, " in text


def test_the_limits_of_the_stages_are_below_eight_minutes(script):
    stages = script.stages("gpu")
    assert sum(max(part.seconds for part in stage.values()) for stage in stages) < 8 * 60
    files = [Path(part.command[0]) for stage in stages for part in stage.values() if part.command[0] != "-m"]
    assert all(file.is_file() for file in [*files, *(script.ROOT / test for test in script.TESTS)])


def test_without_a_gpu_the_script_says_so_before_it_starts(script):
    assert script.missing("cpu") == []
    *_, last = script.missing("gpu")
    assert last.startswith("TensorFlow sees no GPU: ")
