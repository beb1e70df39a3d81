"""Questions and announcements on the LAN itself: ARP, and the same for IPv6 through ndp.py.

A probe needs no address of our own (RFC 5227 for IPv4, RFC 4862 for IPv6), so a node in standby can send it. An
announcement is a gratuitous ARP, or an unsolicited neighbour advertisement (RFC 4861).
"""

import array
import errno
import select
import socket
import struct
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from clusterd import ndp, nic, urgency

_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ZERO_MAC = bytes(6)
_ZERO = bytes(4)
_REQUEST = 1
_REPLY = 2
_ARP_HEADER = b"\x08\x06" + struct.pack("!HHBB", 1, 0x0800, 6, 4)

_SO_ATTACH_FILTER = 26
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_MULTICAST = 0
_PACKET_OUTGOING = 4
_AT_ONCE = 256

# Classic BPF (code, jump if true, jump if false, value): the broadcasts of a busy LAN must not wake the watchdog.
_LOAD16 = 0x28
_LOAD8 = 0x30
_LOAD32 = 0x20
_A_TO_X = 0x07
_EQUAL = 0x15
_EQUAL_X = 0x1D
_RETURN = 0x06
_WANT_ARP = (
    (_LOAD16, 0, 0, 20),  # operation
    (_EQUAL, 4, 0, _REPLY),
    (_LOAD32, 0, 0, 28),  # sender's address
    (_A_TO_X, 0, 0, 0),
    (_LOAD32, 0, 0, 38),  # target address: the same in a gratuitous request
    (_EQUAL_X, 0, 1, 0),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)
_WANT_ADVERTISEMENT = (
    (_LOAD8, 0, 0, 20),  # next header
    (_EQUAL, 0, 3, socket.IPPROTO_ICMPV6),
    (_LOAD8, 0, 0, 54),  # ICMPv6 type
    (_EQUAL, 0, 1, ndp.ADVERTISEMENT),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)


_sender: socket.socket | None = None


class Answer(NamedTuple):
    """Somebody on the LAN says that `address` is at `mac`."""

    address: str
    """As the caller wrote it in `Socket.probe`, else as the kernel writes it."""
    mac: str


class Socket:
    """Sends and hears ARP and neighbour discovery on one interface, never waiting.

    An interface that is down, gone or not yet there is no error: sending returns False, reading nothing, and it
    works again when the interface is back. `fileno` is readable when `read` has something to return.

    Args:
        interface: the NIC.
        ipv6: also hear IPv6 before the first IPv6 probe.
    """

    def __init__(self, interface: str, *, ipv6: bool = False) -> None:
        self.interface = interface
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._bound: dict[int, int] = {}
        self._spelling: dict[bytes, str] = {}
        self._open(_ETH_P_ARP)
        if ipv6:
            self._open(_ETH_P_IPV6)

    def fileno(self) -> int:
        """For select, poll and epoll."""
        return self._poll.fileno()

    def probe(self, target: str) -> bool:
        """Ask who has `target`, from no address and with the MAC that the NIC has now; False: it was not sent."""
        return self.ask(target, None)

    def ask(self, target: str, source: str | None) -> bool:
        """Like `probe`, but from our own address `source`: the ordinary question of RFC 826 or RFC 4861."""
        mac = nic.mac(self.interface)
        if mac is None:
            return False
        wanted, own = nic.packed(target), bytes.fromhex(mac.replace(":", ""))
        self._spelling[wanted] = target.partition("/")[0]
        sender = nic.packed(source) if source else bytes(len(wanted))
        if len(wanted) == 4:
            return self._send(_ETH_P_ARP, _frame(_REQUEST, own, sender, _ZERO_MAC, wanted))
        return self._send(_ETH_P_IPV6, ndp.solicitation(wanted, own, sender))

    def announce(self, mac: str, address: str) -> bool:
        """Tell everybody that `address` is at `mac`: gratuitous ARP as request and as reply, or an advertisement."""
        return all([self._send(kind, frame) for kind, frame in _announcement(mac, address)])

    def read(self) -> list[Answer]:
        """What was answered or announced since the last call, other than by this machine's own NICs.

        With two NICs on one LAN the own kernel may answer on one what was asked on the other.
        """
        heard = [pair for kind, sock in self._sockets.items() for pair in _receive(kind, sock)]
        if not heard:
            return []
        own = set(nic.macs().values())
        answers = [Answer(self._spelling.get(each) or nic.text(each), mac.hex(":")) for each, mac in heard]
        return [answer for answer in answers if answer.mac not in own]

    def wait_for(self, hosts: Collection[str], timeout: float) -> str | None:
        """The first of `hosts` that answers within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self._poll.poll(left)
            for answer in self.read():
                if answer.address in hosts:
                    return answer.address
        return None

    def close(self) -> None:
        """Close it all; harmless when repeated."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._poll.close()

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, kind: int) -> socket.socket:
        """The socket of one protocol. Bound to a protocol it costs outgoing traffic nothing, unlike ETH_P_ALL."""
        if kind not in self._sockets:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            urgency.ahead_of_files(sock)
            _attach(sock, _WANT_ARP if kind == _ETH_P_ARP else _WANT_ADVERTISEMENT)
            self._sockets[kind] = sock
            self._poll.register(sock, select.EPOLLIN)
            self._bind(kind)
        return self._sockets[kind]

    def _bind(self, kind: int) -> bool:
        """Bind to the interface as it is now: one that was removed and made again has another index."""
        try:
            index = socket.if_nametoindex(self.interface)
            if self._bound.get(kind) == index:
                return True
            sock = self._sockets[kind]
            sock.bind((self.interface, kind))
            if kind == _ETH_P_IPV6:
                member = struct.pack("iHH8s", index, _PACKET_MR_MULTICAST, 6, ndp.ALL_NODES_MAC)
                sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
        except OSError:
            return False
        self._bound[kind] = index
        return True

    def _send(self, kind: int, frame: bytes) -> bool:
        sock = self._open(kind)
        try:
            return self._bind(kind) and sock.send(frame) == len(frame)
        except OSError:
            return False


def announce(interface: str, mac: str, addresses: Iterable[str]) -> bool:
    """Announce each of `addresses` on `interface` once; whether all of it could be sent.

    The socket stays open until `close_sender`, or the end: closing one makes the kernel wait 10 ms or more, which an
    outage would be longer by.
    """
    global _sender
    if _sender is None:
        _sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        urgency.ahead_of_files(_sender)
    frames = [frame for address in addresses for frame in _announcement(mac, address)]
    try:
        return all([_sender.sendto(frame, (interface, kind)) == len(frame) for kind, frame in frames])
    except OSError:
        return False


def close_sender() -> None:
    """Close the socket of `announce`: a process that moves to another network namespace has to."""
    global _sender
    if _sender is not None:
        _sender.close()
        _sender = None


def _announcement(mac: str, address: str) -> list[tuple[int, bytes]]:
    """The frames, each with its protocol. Some systems learn from a request only, some from a reply (RFC 5944, 4.6)."""
    claimed, own = nic.packed(address), bytes.fromhex(mac.replace(":", ""))
    if len(claimed) == 16:
        return [(_ETH_P_IPV6, ndp.advertisement(claimed, own))]
    forms = (_frame(_REQUEST, own, claimed, _ZERO_MAC, claimed), _frame(_REPLY, own, claimed, own, claimed))
    return [(_ETH_P_ARP, form) for form in forms]


def _frame(operation: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _BROADCAST + mac + _ARP_HEADER + struct.pack("!H", operation) + mac + sender + target_mac + target


def _parse(frame: bytes) -> tuple[bytes, bytes] | None:
    """Address and MAC of the sender of a reply or of an announcement; None for anything else, a probe above all."""
    if len(frame) < 42 or frame[12:20] != _ARP_HEADER:
        return None
    operation, mac, sender, target = frame[20:22], frame[22:28], frame[28:32], frame[38:42]
    if sender == _ZERO or (operation != b"\0\2" and sender != target):
        return None
    return sender, mac


def _receive(kind: int, sock: socket.socket) -> list[tuple[bytes, bytes]]:
    """What has come in, but no more than a flood's first frames: the watchdog has other things to do."""
    found: list[tuple[bytes, bytes]] = []
    for _ in range(_AT_ONCE):
        try:
            frame, where = sock.recvfrom(512)
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # said once, when the interface goes down; frames may still be queued
                continue
            break
        claim = _parse(frame) if kind == _ETH_P_ARP else ndp.parse(frame)
        if claim and where[2] != _PACKET_OUTGOING:
            found.append(claim)
    return found


def _attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    code = array.array("B", b"".join(struct.pack("HBBI", *step) for step in program))
    fprog = struct.pack("HP", len(program), code.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
