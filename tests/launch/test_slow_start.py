"""A local Ray that starts slowly, or does not start."""

import subprocess
import sys

import pytest

from vaedist.errors import ClusterError
from vaedist.launch import session

# Suspends the raylet, before it registers, for longer than the 30 s that Ray waits for it.
STALLED = """
import os, threading, time, psutil
from vaedist.launch.session import ray_session

raylets = []

def stall():
    global raylets
    while not raylets:
        time.sleep(0.01)
        raylets = [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]
    raylets[0].suspend()
    print("suspended", flush=True)
    time.sleep(35)
    raylets[0].resume()

threading.Thread(target=stall, daemon=True).start()
start = time.monotonic()
with ray_session():
    import ray
    print("started", time.monotonic() - start > 35, ray.get(ray.remote(lambda: 7).remote()), flush=True)
    patient = ("RAY_gcs_rpc_server_reconnect_timeout_s", "RAY_health_check_failure_threshold")
    print([name in raylets[0].environ() for name in patient], [name in os.environ for name in patient])
"""


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_although_its_raylet_gets_no_processor_time_for_half_a_minute():
    said = subprocess.run([sys.executable, "-c", STALLED], capture_output=True, text=True, check=False)
    patient = "[True, True] [False, False]"  # in the raylet, and not in what this process starts later
    assert said.stdout.splitlines() == ["suspended", "started True 7", patient], said.stderr[-2000:]


def test_the_reason_why_ray_does_not_start_is_one_line(monkeypatch):
    failure = RuntimeError(
        "Failed to start GCS.  Last 0 lines of error files:\n\n."
        "Please check /tmp/ray/session/logs/gcs_server.out for details. Last connection error: None"
    )

    def fail(**_):
        raise failure

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "init", fail)
    with (
        pytest.raises(ClusterError, match=r"^cannot start Ray: Failed to start GCS; see /tmp/ray/\S+/gcs_server\.out$"),
        session.ray_session(),
    ):
        pass
