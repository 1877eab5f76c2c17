"""The health check of the image, against the agent of a real Ray node that requires a token."""

import contextlib
import json
import re
import subprocess
import sys
import time
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from vaedist.launch.addresses import free_port

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
SECONDS = 120  # timeout
DOCKERFILE = Path(__file__).parents[2] / "cluster" / "docker" / "Dockerfile"


def healthy(port):
    """Returns True if the check passes for the node whose agent listens on the port."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    command = json.loads(re.search(r"^HEALTHCHECK .*? CMD (\[.*\])$", text, re.MULTILINE).group(1))
    assert command[:2] == ["python", "-c"]
    environment = {"http_proxy": "http://127.0.0.1:9"}  # without a token
    assert ":52365/" in command[2]
    code = command[2].replace(":52365/", f":{port}/")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    return done.returncode == 0


def agent_port(processes):
    """Returns the port of the agent of the tests' Ray once it reports a healthy node, else None."""
    listening = []
    for process in processes("DashboardAgent"):
        with contextlib.suppress(psutil.Error):  # it has ended
            listening += process.net_connections("tcp")
    for port in {place.laddr.port for place in listening if place.status == psutil.CONN_LISTEN}:
        with contextlib.suppress(OSError, HTTPException):  # another service, which does not use HTTP
            path = f"http://127.0.0.1:{port}/api/local_raylet_healthz"
            if urlopen(path, timeout=5).read() == b"success":
                return port
    return None


def test_the_images_health_check_queries_the_agent_of_its_node(processes):
    deadline = time.monotonic() + SECONDS
    while not (port := agent_port(processes)):
        assert time.monotonic() < deadline, "the agent, which starts beside Ray, is not well"
        time.sleep(0.5)
    assert healthy(port)
    assert not healthy(free_port())
