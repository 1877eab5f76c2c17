"""Behaviour on a machine whose clock is set back, and between machines whose clocks differ.

Other such tests, of TensorBoard's files, the caches and the mirror, are in tests/monitor/test_tensorboard.py,
tests/storage/test_store.py, tests/devices/test_compile_cache.py and tests/runs/test_remote.py.
"""

import os
import subprocess
import sys
import time

import psutil
import pytest

from vaedist.cli.jobs import _duration
from vaedist.launch.jobs.job import Job
from vaedist.launch.local.cluster import LocalNode, birth_of
from vaedist.launch.training.locked_folder import record_name
from vaedist.storage.scratch import PREFIX, scratch_folder

HOUR = 3600.0


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the dates of processes do not follow the clock")
@pytest.mark.parametrize("moved", [-HOUR, 5.0, HOUR])
def test_a_local_clusters_processes_are_known_again(sleeper, monkeypatch, moved):
    node = LocalNode("head", 1, sleeper.pid, birth_of(psutil.Process(sleeper.pid)), "log")
    began = psutil.boot_time()
    # Linux recomputes it from the clock, and psutil adds it to the ticks at which a process was started.
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: began + moved)
    assert psutil.Process(sleeper.pid).create_time() == pytest.approx(time.time() + moved, abs=60)
    assert node.alive


def test_another_process_with_the_same_id_is_not_mistaken_for_it(sleeper):
    node = LocalNode("head", 1, sleeper.pid, birth_of(psutil.Process(os.getpid())), "log")
    assert not node.alive


def test_a_scratch_folder_of_the_future_is_removed_unless_it_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned = tmp_path / f"{PREFIX}abandoned"
    abandoned.mkdir()
    with scratch_folder() as used:
        for folder in (used, abandoned):
            os.utime(folder, (time.time() + HOUR,) * 2)
        with scratch_folder():
            assert used.exists()
            assert not abandoned.exists()


def test_no_two_of_rays_records_have_the_same_name(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    assert record_name() != record_name()


def test_a_job_whose_clusters_clock_is_ahead_did_not_take_less_than_nothing():
    job = Job("id", "RUNNING", "", "vaedist train", started=time.time() + HOUR)
    assert _duration(job) == "0:00:00"
