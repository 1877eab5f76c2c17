"""Facts about a machine and the storage that it can reach, collected on every node."""

import ipaddress
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import psutil

from vaedist import __version__
from vaedist.errors import VaedistError
from vaedist.launch.training.packet_filter import prove
from vaedist.storage.filesystem import first_line
from vaedist.storage.retry import MISSING
from vaedist.storage.transfer import Store
from vaedist.storage.uri import is_remote, local_path

PACKAGES = ("ray", "tensorflow", "keras", "pyarrow", "numpy")
STORE_SECONDS = 20.0
TENSORFLOW_SECONDS = 90.0  # for the first import of TensorFlow on a machine
LOOK = """
import json, tensorflow
from vaedist.devices.gpus import missing_because
seen = len(tensorflow.config.list_physical_devices("GPU"))
print(json.dumps([seen, missing_because(seen)]))
"""


def probe(storage: Sequence[str] = (), marks: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Collects facts about this machine; runs on each node.

    Args:
        storage: folders or URIs to write a file to.
        marks: for each of them, the name of a file that another machine wrote there, to look for.
    """
    return {
        "host": socket.gethostname(),
        "time": time.time(),
        "python": platform.python_version(),
        "vaedist": __version__,
        "packages": {name: _version(name) for name in PACKAGES},
        "pip": find_spec("pip") is not None,
        "gpus": _gpus(),
        "temporary": tempfile.gettempdir(),
        "free": shutil.disk_usage(tempfile.gettempdir()).free,
        "filter": _fault_of_filters(),
        "open": _open_ports(),
        "token": os.environ.get("RAY_AUTH_MODE") == "token",
        "storage": {uri: _try_storage(uri, (marks or {}).get(uri)) for uri in storage},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> int | None:
    """Returns the number of GPUs that NVIDIA's driver shows, None without a driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _fault_of_filters() -> str | None:
    """Returns the reason why packet filters do not work on this machine, None if they do."""
    try:
        prove()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _open_ports() -> int | None:
    """Returns the number of this Ray node's ports that other machines can reach, None outside a node's processes."""
    with suppress(psutil.Error):
        raylet = psutil.Process().parent()
        if raylet is None or raylet.name() != "raylet":
            return None
        return sum(map(_open_ports_of, [raylet, *raylet.children(recursive=True)]))
    return None


def _open_ports_of(process: psutil.Process) -> int:
    with suppress(psutil.Error):  # the process has ended
        listening = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        addresses = [ipaddress.ip_address(one.laddr.ip.removeprefix("::ffff:")) for one in listening]
        return sum(not address.is_loopback for address in addresses)
    return 0


def tensorflow_gpus() -> dict[str, Any]:
    """Returns the number of GPUs that TensorFlow sees on this machine, and why not more; runs on nodes with GPUs.

    It starts a separate process that sees all GPUs, because Ray hides them from a task that reserves none.
    """
    variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        said = subprocess.run(
            [sys.executable, "-c", LOOK], env=variables, capture_output=True, text=True, timeout=TENSORFLOW_SECONDS,
            check=True,
        )  # fmt: skip
        gpus, why = json.loads(said.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        gpus, why = 0, (error.stderr.strip() or "TensorFlow ends").splitlines()[-1]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        gpus, why = 0, first_line(error)
    return {"gpus": gpus, "why": why}


def write_mark(uri: str) -> str | None:
    """Writes a file to a storage for other machines to look for, and returns its name; None on failure."""
    name = _mark_name()
    with suppress(VaedistError, OSError):
        Store(uri, seconds=STORE_SECONDS).write(name, name.encode())
        return name
    return None


def remove_mark(uri: str, mark: str | None) -> None:
    """Removes the file of `write_mark`, if it was written."""
    if mark is not None:
        with suppress(VaedistError, OSError):
            Store(uri, seconds=STORE_SECONDS).remove(mark)


def _try_storage(uri: str, mark: str | None) -> dict[str, Any]:
    """Writes, reads and removes a file, and returns the outcome."""
    result: dict[str, Any] = {"error": None, "seen": None, "free": None}
    name = _mark_name()
    try:
        store = Store(uri, seconds=STORE_SECONDS)
        store.write(name, name.encode())
        if store.read(name) != name.encode():
            result["error"] = "a file that was written reads back with other content"
        store.remove(name)
        if mark is not None:
            result["seen"] = False
            with suppress(*MISSING):
                result["seen"] = store.read(mark) == mark.encode()
        if not is_remote(uri):
            result["free"] = shutil.disk_usage(local_path(uri)).free
    except (VaedistError, OSError) as error:
        result["error"] = first_line(error)
    return result


def _mark_name() -> str:
    return f".vaedist-doctor-{secrets.token_hex(8)}"
