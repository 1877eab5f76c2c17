"""Packet filters: which machines reach a listening socket of this process, decided by the kernel.

A server that cannot be told which address to bind, as TensorFlow's, is open on all interfaces. On Linux a process may
attach a classic BPF program to a socket of its own, without privileges. The kernel runs the program for every packet
that arrives for the socket, the first of a connection included, and drops the packet where the program returns 0.
Connections that the socket accepts inherit the program. Nothing is sent back, so that a dropped connection times out.
"""

import ctypes
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from itertools import groupby
from typing import NamedTuple, TypeAlias

from vaedist.errors import ClusterError

Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK_NETWORKS: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

# Options of Linux's sockets that Python has no names for; include/uapi/asm-generic/socket.h.
_ATTACH_FILTER, _LOCK_FILTER, _ATTACH_REUSEPORT_FILTER, _MEMORY = 26, 44, 51, 55
_DROPS = 8  # position of the count of dropped packets among the 32-bit numbers of _MEMORY

# Instructions of classic BPF, a machine with one register A; include/uapi/linux/bpf_common.h.
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x05, 0x15, 0x06
_HEADER = (1 << 32) - 0x100000  # offsets from here on count from the IP header (SKF_NET_OFF, as an unsigned number)
_VERSION, _VERSION_MASK, _VERSION_4 = _HEADER, 0xF0, 0x40  # upper half of the header's first byte
_SOURCE_4, _SOURCE_6 = _HEADER + 12, _HEADER + 8  # the sender's address
MOST_INSTRUCTIONS = 4096  # of a program; two for each host of IPv4, up to thirteen for one of IPv6
WHOLE_PACKET = 0xFFFFFFFF  # bytes of the packet that a program keeps

_PROOF_SECONDS = 0.2  # a connection over the loopback takes less than a millisecond


class Instruction(NamedTuple):
    """Instruction of classic BPF.

    Attributes:
        code: operation.
        then, otherwise: instructions to skip after a comparison that holds, or does not.
        k: operand.
    """

    code: int
    then: int
    otherwise: int
    k: int


def program(networks: Iterable[Network], accepted: int = WHOLE_PACKET) -> list[Instruction]:
    """Returns a program that tells packets from some networks from all others, by the sender's address.

    A packet that comes to an IPv6 socket over IPv4 has an IPv4 header, so both kinds are told by the header's version.

    Args:
        networks: of the senders that are let in.
        accepted: what the program returns for these; it returns 0 for all others.
    """
    networks = list(networks)
    four = _match_4(collapse_addresses(_of(IPv4Network, networks)), accepted)
    six = [each for network in collapse_addresses(_of(IPv6Network, networks)) for each in _match_6(network, accepted)]
    reject = Instruction(_RETURN, 0, 0, 0)
    return [
        Instruction(_LOAD_BYTE, 0, 0, _VERSION),
        Instruction(_AND, 0, 0, _VERSION_MASK),
        Instruction(_JUMP_IF_EQUAL, 1, 0, _VERSION_4),
        Instruction(_JUMP, 0, 0, len(four) + 1),  # over the part for IPv4
        *four,
        reject,
        *six,
        reject,
    ]


def _of(kind: type, networks: Iterable[Network]) -> list:
    return [network for network in networks if isinstance(network, kind)]


def _match_4(networks: Iterable[IPv4Network], accepted: int) -> list[Instruction]:
    """Returns instructions that return for a packet from one of the networks, and otherwise run to their end."""
    load, found = Instruction(_LOAD_WORD, 0, 0, _SOURCE_4), list[Instruction]()
    for mask, alike in groupby(sorted(networks, key=lambda each: each.netmask), key=lambda each: int(each.netmask)):
        found += [load, Instruction(_AND, 0, 0, mask)]
        for network in alike:
            found += [
                Instruction(_JUMP_IF_EQUAL, 0, 1, int(network.network_address)),
                Instruction(_RETURN, 0, 0, accepted),
            ]
    return found


def _match_6(network: IPv6Network, accepted: int) -> list[Instruction]:
    """Returns the same for one network of IPv6: addresses are four words, of which the mask may leave out the last."""
    wanted = struct.unpack("!4I", network.network_address.packed)
    masks = [mask for mask in struct.unpack("!4I", network.netmask.packed) if mask]
    found = []
    for number, (word, mask) in enumerate(zip(wanted, masks, strict=False)):
        rest = 3 * (len(masks) - number - 1) + 1  # instructions of this network that follow
        found += [
            Instruction(_LOAD_WORD, 0, 0, _SOURCE_6 + 4 * number),
            Instruction(_AND, 0, 0, mask),
            Instruction(_JUMP_IF_EQUAL, 0, rest, word),
        ]
    return [*found, Instruction(_RETURN, 0, 0, accepted)]


def drop_all(listener: socket.socket) -> None:
    """Has the kernel drop every packet that arrives for a socket.

    Raises:
        OSError: the system has no such filters.
    """
    _attach(listener, _ATTACH_FILTER, [Instruction(_RETURN, 0, 0, 0)])


def admit(listener: socket.socket, networks: Iterable[Network]) -> None:
    """Has the kernel drop what arrives for a socket from elsewhere than some networks; it cannot be undone.

    Raises:
        OSError: the system has no such filters, or the networks are too many for one.
    """
    _attach(listener, _ATTACH_FILTER, program(networks))
    listener.setsockopt(socket.SOL_SOCKET, _LOCK_FILTER, 1)


def divert(listener: socket.socket, networks: Iterable[Network]) -> None:
    """Has the kernel send connections from some networks to the second of the sockets that share a port.

    All others go to the first. Both are bound with SO_REUSEPORT, and `listener`, the first, listens.

    Raises:
        OSError: the system has no such filters, or the networks are too many for one.
    """
    _attach(listener, _ATTACH_REUSEPORT_FILTER, program(networks, accepted=1))


def _attach(listener: socket.socket, option: int, instructions: Sequence[Instruction]) -> None:
    """Sets an option to a `struct sock_fprog`: the number of instructions and the address of the first."""
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} has no packet filters for sockets")
    if len(instructions) > MOST_INSTRUCTIONS:
        raise OSError(
            f"the addresses take {len(instructions)} instructions of a filter, which holds {MOST_INSTRUCTIONS}: name "
            f"networks that hold them"
        )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(instructions), ctypes.addressof(code)))


def dropped(listener: socket.socket) -> int:
    """Returns how many packets a listening socket did not take, those that a filter dropped among them."""
    values = listener.getsockopt(socket.SOL_SOCKET, _MEMORY, 4 * (_DROPS + 1))
    return struct.unpack(f"{len(values) // 4}I", values)[_DROPS] if len(values) > 4 * _DROPS else 0


def prove() -> None:
    """Tries a filter on a socket of its own, since some systems take filters and do not apply them.

    Raises:
        OSError: there are none, or a connection came through one.
    """
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        drop_all(listener)
        listener.listen()
        client.settimeout(_PROOF_SECONDS)
        with suppress(TimeoutError):
            client.connect(listener.getsockname())
            raise OSError("the system takes packet filters, and does not apply them")


def networks_of(hosts: Iterable[str]) -> list[Network]:
    """Returns the addresses of some hosts, names or numbers, each as a network of its own.

    Raises:
        ClusterError: a name has no address.
    """
    found: list[Network] = []
    for host in sorted(set(hosts)):
        try:
            addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ClusterError(f"the address of {host}, a machine of this run, cannot be found: {error}") from error
        found += {ip_network(str(address[4][0]).partition("%")[0]) for address in addresses}
    return found
