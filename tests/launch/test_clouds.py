"""Preemption notices of the clouds, from simulated metadata services on the loopback, and their handling."""

import socket
import threading
import time

import pytest
from command import run, start
from metadata import PLAYING

from vaedist.errors import ClusterError, ConfigError
from vaedist.launch.preemption.clouds import Aws, Metadata, find_cloud
from vaedist.launch.preemption.watch import Watcher

SECONDS = 30  # timeout


@pytest.fixture(params=PLAYING)
def cloud(request):
    """Returns the name and the server of each cloud in turn."""
    server = PLAYING[request.param]()
    yield request.param, server
    server.close()


@pytest.fixture
def play():
    """Returns a function that starts the server of a cloud, given by name."""
    servers = []

    def begin(name):
        servers.append(PLAYING[name]())
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


class Draining:
    """A watcher of a server, its drains, and its log lines."""

    def __init__(self, server, name="auto", refuse=0):
        self.drained, self.said, self._refuse = [], [], refuse
        self.watcher = Watcher(find_cloud(name, server.url), self._drain, self.said.append, interval=0.2)

    def _drain(self, notice):
        if self._refuse:
            self._refuse -= 1
            raise ClusterError("no Ray cluster answers")
        self.drained.append(notice)

    def look(self, times=1):
        return [self.watcher.look() for _ in range(times)][-1]


def test_each_cloud_is_detected_and_announces_nothing_at_first(cloud):
    name, server = cloud
    draining = Draining(server)
    draining.look(3)
    assert find_cloud("auto", server.url).name == name
    assert (draining.drained, draining.said) == ([], [])


def test_a_notice_drains_once_with_its_deadline(cloud):
    _, server = cloud
    draining = Draining(server)
    draining.look(2)
    server.announce(30)
    draining.look(3)
    [notice] = draining.drained
    assert notice.deadline == pytest.approx(time.time() + 30, abs=5)
    [said] = draining.said
    assert "this node is draining" in said


def test_another_cloud_is_not_mistaken_for_the_named_one(cloud):
    name, server = cloud
    for other in set(PLAYING) - {name}:
        assert find_cloud(other, server.url) is None


def test_an_outage_is_logged_once_and_waited_for(cloud):
    _, server = cloud
    draining = Draining(server)
    server.broken = True
    draining.look(3)
    server.broken = False
    server.announce(30)
    draining.look(2)
    assert len(draining.drained) == 1
    assert "HTTP status 503" in draining.said[0]
    assert draining.said[1] == "the metadata service answers again"
    assert len(draining.said) == 3


def test_a_drain_that_ray_refuses_is_retried(cloud):
    _, server = cloud
    draining = Draining(server, refuse=2)
    server.announce(30)
    assert draining.look() <= 1.0
    draining.look(3)
    assert len(draining.drained) == 1
    assert [("Ray cannot be notified" in line) for line in draining.said] == [True, False]


def test_aws_is_asked_with_a_token_which_is_renewed_when_it_has_expired(play):
    server = play("aws")
    draining = Draining(server)
    draining.look(3)
    assert server.handed_out == 1
    server.expire_tokens()
    server.announce(120)
    draining.look()
    assert server.handed_out == 2
    assert draining.drained[0].reason == "AWS will terminate this spot instance"


def test_aws_tokens_are_renewed_before_they_expire(play):
    server, clock = play("aws"), [0.0]
    cloud = Aws(Metadata(server.url), lambda: clock[0])
    handed_out = []
    for _ in range(3):
        cloud.announcement(0)
        handed_out.append(server.handed_out)
        clock[0] += Aws.TOKEN_SECONDS * 0.4
    assert handed_out == [1, 1, 2]


def test_a_google_notice_arrives_at_once_and_its_deadline_stays(play):
    server = play("gcp")
    cloud = find_cloud("gcp", server.url)
    assert cloud.announcement(10) is None
    threading.Timer(0.3, server.announce).start()
    began = time.monotonic()
    first = cloud.announcement(10)
    assert time.monotonic() - began < 8  # and not 10 s, its interval
    assert "wait_for_change=true" in "".join(server.requests)
    assert cloud.announcement(1) == first


def test_a_failed_drain_is_retried_soon_although_the_service_waits_for_changes(play):
    server = play("gcp")
    drained = []

    def drain(_):
        drained.append(time.monotonic())
        if len(drained) == 1:
            raise ClusterError("no Ray cluster answers")

    watcher = Watcher(find_cloud("gcp", server.url), drain, lambda _: None, interval=30)
    server.announce()
    watcher.look()
    watcher.look()
    assert drained[1] - drained[0] < 15  # and not after the interval


def test_google_maintenance_counts_only_if_it_terminates_the_machine(play):
    server = play("gcp")
    cloud = find_cloud("gcp", server.url)
    server.maintenance = "MIGRATE_ON_HOST_MAINTENANCE"
    assert cloud.announcement(1) is None
    server.maintenance = "TERMINATE_ON_HOST_MAINTENANCE"
    assert "maintenance" in cloud.announcement(1).reason


def test_azure_events_of_other_machines_and_pauses_are_ignored(play):
    server = play("azure")
    cloud = find_cloud("azure", server.url)
    server.announce(30, machine="vmss_2")
    server.announce(30, kind="Freeze")
    assert cloud.announcement(0) is None
    server.announce(600, kind="Redeploy")
    server.announce(None)  # begins now
    notice = cloud.announcement(0)
    assert "Preempt" in notice.reason
    assert notice.deadline == pytest.approx(time.time() + 30, abs=5)


def test_an_earlier_deadline_is_a_new_notice_and_a_later_one_is_not(play):
    server = play("azure")
    draining = Draining(server)
    for seconds in (300, 600, 40):
        server.announce(seconds)
        draining.look()
    assert [round(notice.deadline - time.time(), -1) for notice in draining.drained] == [300, 40]


@pytest.mark.parametrize("text", ["no JSON", '{"action": "stop"}', '{"action": "stop", "time": "soon"}', "[]"])
def test_an_invalid_answer_is_logged_and_drains_nothing(play, text):
    server = play("aws")
    draining = Draining(server)
    server.answer = lambda method, path, *_: (200, "token" if method == "PUT" else text, {})
    draining.look(2)
    assert draining.drained == []
    [said] = draining.said
    assert "sends" in said


def test_proxies_are_not_used(play, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert find_cloud("aws", play("aws").url) is not None


@pytest.mark.parametrize("url", ["169.254.169.254", "https://127.0.0.1", "http://", "ftp://x"])
def test_an_address_that_is_not_a_url_is_refused(url):
    with pytest.raises(ConfigError, match="must be a URL such as"):
        find_cloud("aws", url)


def test_the_command_ends_without_error_if_there_is_no_service(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        out, err = run("cluster", "watch-preemption", "--url", f"http://127.0.0.1:{free.getsockname()[1]}", seconds=90)
    assert err == ""
    [line] = out.splitlines()
    assert "no metadata service (auto) responds at http://127.0.0.1:" in line


def test_the_command_keeps_trying_and_logs_that_ray_cannot_be_notified(play, tmp_path):
    server, log = play("aws"), tmp_path / "log"
    server.broken = True
    with log.open("w") as file:
        watching = start(
            "cluster", "watch-preemption", "--url", server.url, "--interval", "0.2", "--keep-trying",
            "--address", "127.0.0.1:9", log=file,
        )  # fmt: skip
    try:
        wait_for(lambda: len(server.requests) > 6)
        server.broken = False
        wait_for(lambda: "could not be passed on yet: no Ray cluster answers at 127.0.0.1:9" in log.read_text())
        server.announce(30)
        wait_for(lambda: "AWS will terminate this spot instance, but Ray cannot be notified" in log.read_text())
        assert watching.poll() is None
    finally:
        watching.terminate()
    assert watching.wait(SECONDS) == 130
    assert "Traceback" not in log.read_text()


def wait_for(condition):
    deadline = time.monotonic() + 3 * SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
