"""Packet filters, by which the kernel lets only some machines reach a listening socket of this process.

TensorFlow's server binds all interfaces, and has no option to change that. On Linux a process may attach a classic BPF
program to its own sockets, without privileges. The kernel runs the program for every packet that arrives for the
socket, including the first of a connection, and drops the packet if the program returns 0. Accepted connections inherit
the program. Nothing is sent back, so a dropped connection times out.
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

# Socket options of Linux that Python does not define; include/uapi/asm-generic/socket.h.
_ATTACH_FILTER, _LOCK_FILTER, _ATTACH_REUSEPORT_FILTER, _MEMORY = 26, 44, 51, 55
_DROPS = 8  # index of the number of dropped packets in the 32-bit numbers of _MEMORY

# Instructions of classic BPF, a machine with one register A; include/uapi/linux/bpf_common.h.
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x05, 0x15, 0x06
_HEADER = (1 << 32) - 0x100000  # base of offsets that are relative to the IP header (SKF_NET_OFF, unsigned)
_VERSION, _VERSION_MASK, _VERSION_4 = _HEADER, 0xF0, 0x40  # upper half of the header's first byte
_SOURCE_4, _SOURCE_6 = _HEADER + 12, _HEADER + 8  # the sender's address
MOST_INSTRUCTIONS = 4096  # of a program; an IPv4 host needs two, and an IPv6 host up to thirteen
WHOLE_PACKET = 0xFFFFFFFF  # return value of a program that accepts all bytes of a packet

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
    """Returns a program that accepts packets from some networks, by the sender's address.

    A packet that reaches an IPv6 socket over IPv4 has an IPv4 header, so the program checks the version in the header.

    Args:
        networks: networks of the accepted senders.
        accepted: return value of the program for these; it is 0 for all others.
    """
    networks = list(networks)
    four = _match_4(collapse_addresses(_of(IPv4Network, networks)), accepted)
    six = [each for network in collapse_addresses(_of(IPv6Network, networks)) for each in _match_6(network, accepted)]
    reject = Instruction(_RETURN, 0, 0, 0)
    return [
        Instruction(_LOAD_BYTE, 0, 0, _VERSION),
        Instruction(_AND, 0, 0, _VERSION_MASK),
        Instruction(_JUMP_IF_EQUAL, 1, 0, _VERSION_4),
        Instruction(_JUMP, 0, 0, len(four) + 1),  # skips the part for IPv4
        *four,
        reject,
        *six,
        reject,
    ]


def _of(kind: type, networks: Iterable[Network]) -> list:
    return [network for network in networks if isinstance(network, kind)]


def _match_4(networks: Iterable[IPv4Network], accepted: int) -> list[Instruction]:
    """Returns instructions that return if a packet is from one of the networks, and otherwise fall through."""
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
    """Returns the same for one IPv6 network. Addresses have four words; those that the mask clears are not compared."""
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
    """Makes the kernel drop every packet that arrives for a socket.

    Raises:
        OSError: the system has no packet filters.
    """
    _attach(listener, _ATTACH_FILTER, [Instruction(_RETURN, 0, 0, 0)])


def admit(listener: socket.socket, networks: Iterable[Network]) -> None:
    """Makes the kernel drop packets for a socket from outside some networks; this cannot be undone.

    Raises:
        OSError: the system has no packet filters, or there are too many networks for one.
    """
    _attach(listener, _ATTACH_FILTER, program(networks))
    listener.setsockopt(socket.SOL_SOCKET, _LOCK_FILTER, 1)


def divert(listener: socket.socket, networks: Iterable[Network]) -> None:
    """Makes the kernel give connections from some networks to the second of two sockets that share a port.

    All others go to the first. Both sockets have SO_REUSEPORT, and `listener`, the first, listens.

    Raises:
        OSError: the system has no packet filters, or there are too many networks for one.
    """
    _attach(listener, _ATTACH_REUSEPORT_FILTER, program(networks, accepted=1))


def _attach(listener: socket.socket, option: int, instructions: Sequence[Instruction]) -> None:
    """Sets a socket option to a `struct sock_fprog`: the number of instructions and the address of the first."""
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} has no packet filters for sockets")
    if len(instructions) > MOST_INSTRUCTIONS:
        raise OSError(
            f"the addresses need {len(instructions)} instructions of a filter, which holds {MOST_INSTRUCTIONS}: name "
            f"networks that contain them"
        )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(instructions), ctypes.addressof(code)))


def dropped(listener: socket.socket) -> int:
    """Returns the number of packets that a listening socket dropped, including those that its filter dropped."""
    values = listener.getsockopt(socket.SOL_SOCKET, _MEMORY, 4 * (_DROPS + 1))
    return struct.unpack(f"{len(values) // 4}I", values)[_DROPS] if len(values) > 4 * _DROPS else 0


def prove() -> None:
    """Tests that a packet filter works, as some systems accept filters but do not apply them.

    Raises:
        OSError: the system has no packet filters, or a connection passed through one that drops everything.
    """
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        drop_all(listener)
        listener.listen()
        client.settimeout(_PROOF_SECONDS)
        with suppress(TimeoutError):
            client.connect(listener.getsockname())
            raise OSError("the system accepts packet filters but does not apply them")


def networks_of(hosts: Iterable[str]) -> list[Network]:
    """Returns the addresses of hosts, given by name or address, each as a network of one address.

    Raises:
        ClusterError: a name cannot be resolved.
    """
    found: list[Network] = []
    for host in sorted(set(hosts)):
        try:
            addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ClusterError(f"the address of {host}, a machine of this run, cannot be found: {error}") from error
        found += {ip_network(str(address[4][0]).partition("%")[0]) for address in addresses}
    return found
