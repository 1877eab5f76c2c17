"""A local Ray on a machine that is busy with other programs while it starts."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Suspends the raylet, before it registers, for longer than the 30 s that Ray waits for it.
STALLED = """
import threading, time, psutil
from vaedist.launch.session import ray_session

def stall():
    raylets = []
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
"""


def test_ray_starts_although_its_raylet_gets_no_processor_time_for_half_a_minute():
    said = subprocess.run([sys.executable, "-c", STALLED], capture_output=True, text=True, check=False)
    assert said.stdout.splitlines() == ["suspended", "started True 7"], said.stderr[-2000:]
