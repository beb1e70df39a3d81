"""What the kernel says of a network interface, asked without starting a program.

The watchdog asks many times a second; ``ip`` would cost it a fork each time.
"""

import array
import fcntl
import os
import socket
import struct

from clusterd import paths

_SIOCGIFCONF = 0x8912
_SIOCGIFFLAGS = 0x8913
_SIOCGIFHWADDR = 0x8927
_SIOCGIFINDEX = 0x8933
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_ARPHRD_ETHER = 1
_IFREQ_SIZE = 40 if struct.calcsize("P") == 8 else 32


def exists(interface: str) -> bool:
    """Whether there is an interface of that name."""
    return _ask(interface, _SIOCGIFFLAGS) is not None


def mac(interface: str) -> str | None:
    """The MAC address that the interface uses now, lower case with colons; None if it has none or is gone."""
    answer = _ask(interface, _SIOCGIFHWADDR)
    if answer is None or struct.unpack_from("=H", answer, 16)[0] != _ARPHRD_ETHER:
        return None
    return answer[18:24].hex(":")


def macs() -> dict[str, str]:
    """The MAC address of every interface of this machine that has one."""
    found = {name: mac(name) for _, name in socket.if_nameindex()}
    return {name: address for name, address in found.items() if address}


def index(sock: socket.socket, interface: str) -> int:
    """The kernel's number of the interface, asked through any open socket: socket.if_nametoindex opens one each time.

    Raises:
        OSError: there is no such interface.
    """
    answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("=16s24x", os.fsencode(interface)[:15]))
    return int(struct.unpack_from("=i", answer, 16)[0])


def up(interface: str) -> bool:
    """Whether it was set up by the administrator (``ip link set … up``), cable or not."""
    return bool(_flags(interface) & _IFF_UP)


def carrier(interface: str) -> bool:
    """Whether it is up and has a link: frames can pass."""
    return _flags(interface) & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING


def addresses(interface: str) -> set[bytes]:
    """The IPv4 and IPv6 addresses on the interface, packed (see `packed`)."""
    return _addresses4(interface) | _addresses6(interface)


def packed(address: str) -> bytes:
    """An address, with or without prefix length, as 4 or 16 bytes: the one form in which equal ones are equal."""
    plain = address.partition("/")[0]
    return socket.inet_pton(family(plain), plain)


def text(packed_address: bytes) -> str:
    """The reverse of `packed`, as the kernel writes it."""
    return socket.inet_ntop(socket.AF_INET if len(packed_address) == 4 else socket.AF_INET6, packed_address)


def network(address: str) -> str:
    """The network of an address with prefix length: 10.1.0.0/24 of 10.1.0.1/24. (ipaddress takes 5 ms to import.)"""
    host, size = packed(address), int(address.partition("/")[2])
    unused = 8 * len(host) - size
    base = int.from_bytes(host, "big") >> unused << unused
    return f"{text(base.to_bytes(len(host), 'big'))}/{size}"


def family(address: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6, by the look of it."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _flags(interface: str) -> int:
    answer = _ask(interface, _SIOCGIFFLAGS)
    return struct.unpack_from("=H", answer, 16)[0] if answer else 0


def _ask(interface: str, request: int) -> bytes | None:
    """One ifreq ioctl; None if there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return fcntl.ioctl(sock, request, struct.pack("=16s24x", os.fsencode(interface)[:15]))
        except OSError:
            return None


def _addresses4(interface: str) -> set[bytes]:
    """From SIOCGIFCONF, which lists secondary addresses as well; a label such as eth0:1 counts for eth0."""
    table = _ifconf(64)
    found = set()
    for start in range(0, len(table), _IFREQ_SIZE):
        label = os.fsdecode(table[start : start + 16].partition(b"\0")[0])
        if label.partition(":")[0] == interface:
            found.add(table[start + 20 : start + 24])
    return found


def _ifconf(room: int) -> bytes:
    """The table of SIOCGIFCONF, which silently leaves out what does not fit into `room` entries."""
    buffer = array.array("B", bytes(_IFREQ_SIZE * room))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        size: int = struct.unpack_from("i", fcntl.ioctl(sock, _SIOCGIFCONF, request))[0]
    return _ifconf(room * 4) if size == len(buffer) else buffer[:size].tobytes()


def _addresses6(interface: str) -> set[bytes]:
    try:
        with open(f"{paths.PROC}/self/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except FileNotFoundError:
        return set()
    return {bytes.fromhex(row[0]) for row in rows if row[5] == interface}
