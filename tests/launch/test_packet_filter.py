"""Packet filters on sockets of this machine."""

import socket
import struct
import sys
from ipaddress import ip_network

import pytest

from vaedist.errors import ClusterError
from vaedist.launch.training import packet_filter
from vaedist.launch.training.packet_filter import (
    MOST_INSTRUCTIONS,
    admit,
    drop_all,
    dropped,
    networks_of,
    program,
    prove,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has packet filters for sockets")
SECONDS = 0.3  # timeout of dropped packets; others need microseconds over the loopback
HERE, OTHER = "127.0.0.1", "127.0.0.2"


def reaches(port, source, target=HERE):
    """Returns True if a connection from an address succeeds; a filter drops it without an answer."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(SECONDS)
        client.bind((source, 0))
        try:
            client.connect((target, port))
        except TimeoutError:
            return False
        return True


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "both"])
def listener(request):
    """Listens on all interfaces, with IPv4 or with both protocols."""
    both = request.param == socket.AF_INET6
    if both and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("", 0), family=request.param, dualstack_ipv6=both) as found:
        yield found


def test_only_the_named_networks_reach_a_socket(listener):
    port = listener.getsockname()[1]
    assert reaches(port, HERE)
    admit(listener, [ip_network(OTHER)])
    assert reaches(port, OTHER)
    assert not reaches(port, HERE)
    assert not reaches(port, "127.0.0.3")


@pytest.mark.parametrize(
    ("networks", "admitted", "refused"),
    [
        (["127.1.0.0/16"], ["127.1.0.0", "127.1.255.255"], ["127.2.0.0", "127.0.255.255"]),
        (["127.0.0.4/30"], ["127.0.0.4", "127.0.0.7"], ["127.0.0.3", "127.0.0.8"]),
        (["10.0.0.0/8", "127.0.0.9", "::1"], ["127.0.0.9"], [HERE]),
        (["0.0.0.0/0"], [HERE, OTHER], []),
        (["::/0"], [], [HERE, OTHER]),
        ([], [], [HERE, OTHER]),
    ],
)
def test_networks_are_distinguished_to_the_bit(listener, networks, admitted, refused):
    admit(listener, map(ip_network, networks))
    port = listener.getsockname()[1]
    assert [source for source in [*admitted, *refused] if reaches(port, source)] == admitted


def run(instructions, packet):
    """Runs a program on a packet, as specified in the kernel's Documentation/networking/filter.rst."""
    position = accumulator = 0
    while True:
        code, then, otherwise, k = instructions[position]
        position += 1
        at = k - ((1 << 32) - 0x100000)
        match code:
            case 0x30:
                accumulator = packet[at]
            case 0x20:
                (accumulator,) = struct.unpack_from("!I", packet, at)
            case 0x54:
                accumulator &= k
            case 0x05:
                position += k
            case 0x15:
                position += then if accumulator == k else otherwise
            case 0x06:
                return k


@pytest.mark.parametrize(
    ("network", "admitted", "refused"),
    [
        ("fd00::/8", ["fd00::1", "fdff::"], ["fe00::", "::1"]),
        ("fd00::1:0:0:0:0/64", ["fd00:0:0:1::9"], ["fd00:0:0:2::9", "fd00:0:1:1::9"]),
        (
            "2001:db8::8000:0/97",
            ["2001:db8::ffff:ffff", "2001:db8::8000:0"],
            ["2001:db8::7fff:0", "2001:db8::1:8000:0"],
        ),
        ("fd00::5/128", ["fd00::5"], ["fd00::4", "fd00:0:0:1::5"]),
        ("::/0", ["fd00::5", "::"], []),
    ],
)
def test_networks_of_ipv6(network, admitted, refused):
    instructions = program([ip_network("10.0.0.0/8"), ip_network(network), ip_network("::7")], accepted=3)

    def told(sender):
        return run(instructions, b"\x60" + 7 * b"\x00" + ip_network(sender).network_address.packed + 16 * b"\x00")

    assert [told(sender) for sender in admitted] == [3] * len(admitted)
    assert [told(sender) for sender in refused] == [0] * len(refused)
    assert told("::7") == 3


def test_ipv6_on_a_socket():
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("the loopback of this machine has no IPv6")
    with listener:
        port = listener.getsockname()[1]
        admit(listener, [ip_network("::1")])
        assert reaches(port, "::1", "::1")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        admit(listener, [ip_network("::2")])
        assert not reaches(listener.getsockname()[1], "::1", "::1")


def test_a_filter_cannot_be_removed(listener):
    admit(listener, [ip_network(OTHER)])
    with pytest.raises(PermissionError):
        drop_all(listener)


def test_accepted_connections_have_the_filter(listener):
    """Packets of hijacked or older connections are dropped too."""
    port = listener.getsockname()[1]
    admit(listener, [ip_network(OTHER)])
    with socket.socket() as client:
        client.bind((OTHER, 0))
        client.connect((HERE, port))
        accepted, _ = listener.accept()
        with accepted, pytest.raises(PermissionError):  # inherited from the listener, whose filter is locked
            drop_all(accepted)


def test_dropped_packets_are_counted(listener):
    admit(listener, [ip_network(OTHER)])
    before = dropped(listener)
    assert not reaches(listener.getsockname()[1], HERE)
    assert dropped(listener) > before


def test_a_system_that_accepts_filters_without_applying_them_is_detected(monkeypatch):
    prove()
    monkeypatch.setattr(packet_filter, "drop_all", lambda listener: None)
    with pytest.raises(OSError, match="does not apply them"):
        prove()


def test_too_many_networks_for_a_filter_are_refused(listener):
    hosts = [ip_network(0x0A000000 + 2 * number) for number in range(2100)]
    assert len(program(hosts)) > MOST_INSTRUCTIONS
    with pytest.raises(OSError, match="which holds 4096"):
        admit(listener, hosts)
    admit(listener, [*hosts, ip_network("10.0.0.0/8")])  # one network contains them


def test_the_networks_of_hosts():
    assert networks_of(["10.0.0.1", "fd00::1", "10.0.0.1"]) == [ip_network("10.0.0.1"), ip_network("fd00::1")]
    assert ip_network(HERE) in networks_of(["localhost"])
    with pytest.raises(ClusterError, match=r"the address of host\.invalid"):
        networks_of(["host.invalid"])
