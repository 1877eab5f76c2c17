"""Connections to this machine bypass the proxies of the environment."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from dead_proxies import set_dead_proxies

from vaedist.launch.addresses import free_port
from vaedist.launch.training.proxies import EXCEPTIONS, GRPC_EXCEPTIONS, PROXIES, bypass_proxies

DEAD = "http://127.0.0.1:9"
LOCAL = "localhost,127.0.0.1,::1"


@pytest.fixture(autouse=True)
def none_set(monkeypatch):
    """Removes proxies from the environment, and restores it afterwards."""
    for name in (*PROXIES, *(name.upper() for name in PROXIES), *EXCEPTIONS, GRPC_EXCEPTIONS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def exceptions():
    return {name: os.environ[name] for name in (*EXCEPTIONS, GRPC_EXCEPTIONS) if name in os.environ}


@pytest.mark.parametrize("proxy", [*PROXIES, *(name.upper() for name in PROXIES)])
@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"no_proxy": LOCAL, "NO_PROXY": LOCAL}),
        ({"no_proxy": "a, b"}, {"no_proxy": f"a,b,{LOCAL}", "NO_PROXY": f"a,b,{LOCAL}"}),
        ({"NO_PROXY": "a"}, {"no_proxy": f"a,{LOCAL}", "NO_PROXY": f"a,{LOCAL}"}),
        ({"no_proxy": "a", "NO_PROXY": "b"}, {"no_proxy": f"a,{LOCAL}", "NO_PROXY": f"b,{LOCAL}"}),
        ({"no_proxy": "*"}, {"no_proxy": "*", "NO_PROXY": "*"}),
        ({"no_grpc_proxy": "g"}, {"no_proxy": LOCAL, "NO_PROXY": LOCAL, "no_grpc_proxy": f"g,{LOCAL}"}),
    ],
)
def test_this_machine_is_added_to_the_users_exceptions(monkeypatch, proxy, given, made):
    monkeypatch.setenv(proxy, DEAD)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bypass_proxies()
    assert exceptions() == made
    bypass_proxies()
    assert exceptions() == made, "once is enough"


def test_without_proxies_nothing_is_changed(monkeypatch):
    monkeypatch.setenv("no_proxy", "a")
    bypass_proxies()
    assert exceptions() == {"no_proxy": "a"}


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_requests_reach_this_machine_and_go_to_the_proxy_for_others(monkeypatch, host):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("http_proxy", DEAD)
        url = f"http://{host}:{server.server_address[1]}"
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get(url, timeout=10)
        bypass_proxies()
        assert requests.get(url, timeout=10).ok
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get("http://192.0.2.1", timeout=10)
    finally:
        server.shutdown()
        server.server_close()


ALL_REDUCE = """
from vaedist.launch.training.proxies import bypass_proxies_among_workers
bypass_proxies_among_workers()
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
@tf.function
def add_up():
    return strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones([])))
print("sum", add_up().numpy())
"""


@pytest.mark.slow
def test_workers_reach_each_other_past_proxies(monkeypatch):
    set_dead_proxies(monkeypatch)
    addresses = [f"127.0.0.2:{free_port()}" for _ in range(2)]  # for hosts that are not exceptions already
    started = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(cluster), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", ALL_REDUCE]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        printed = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert printed == ["sum 2.0\n"] * 2
