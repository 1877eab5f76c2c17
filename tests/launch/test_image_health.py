"""The health check of the image, against the agent of a real Ray node that asks for a token."""

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vaedist.launch.addresses import free_port

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
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


def test_the_images_check_asks_the_agent_of_its_node(processes):
    [agent] = processes("dashboard/agent.py")
    ports = {place.laddr.port for place in agent.net_connections("tcp") if place.status == psutil.CONN_LISTEN}
    assert [port for port in ports if healthy(port)]
    assert not healthy(free_port())
