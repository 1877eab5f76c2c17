"""The health check of the image, against the agent of a real Ray node that asks for a token."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vaedist.launch.addresses import free_port

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
SECONDS = 120  # far more than the agent takes
DOCKERFILE = Path(__file__).parents[2] / "cluster" / "docker" / "Dockerfile"


def healthy(port):
    """Whether the check finds a node well, whose agent listens on the port."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    command = json.loads(re.search(r"^HEALTHCHECK .*? CMD (\[.*\])$", text, re.MULTILINE).group(1))
    assert command[:2] == ["python", "-c"]
    environment = {"http_proxy": "http://127.0.0.1:9"}  # and no token
    code = command[2].replace(":52365/", f":{port}/")
    assert code != command[2]
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    return done.returncode == 0


def listening(process):
    """Ports at which a process listens."""
    return {place.laddr.port for place in process.net_connections("tcp") if place.status == psutil.CONN_LISTEN}


def test_the_images_check_asks_the_agent_of_its_node(processes):
    [agent] = processes("dashboard/agent.py")
    deadline = time.monotonic() + SECONDS
    while not any(healthy(port) for port in listening(agent)):
        assert time.monotonic() < deadline, "the agent, which starts beside Ray, is not well"
        time.sleep(0.5)
    assert not healthy(free_port())
