"""IPv6 neighbour discovery frames: the solicitation that asks for an address, the advertisement that claims it.

RFC 4861 (neighbour discovery) and RFC 4862 (duplicate address detection). Pure: bytes in, bytes out.
"""

import socket
import struct

SOLICITATION = 135
ADVERTISEMENT = 136
ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
UNSPECIFIED = bytes(16)

_ETHERTYPE = b"\x86\xdd"
_ICMPV6 = 58
_SOURCE_MAC = 1
_TARGET_MAC = 2
_OVERRIDE = 0x20000000
_HEADER = 14 + 40


def solicitation(target: bytes, mac: bytes, source: bytes = UNSPECIFIED) -> bytes:
    """Who has `target`? From ``::`` it is the question of duplicate address detection (RFC 4862, section 5.4.2)."""
    group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + target[13:]
    option = b"" if source == UNSPECIFIED else struct.pack("!BB6s", _SOURCE_MAC, 1, mac)
    body = struct.pack("!I16s", 0, target) + option
    return _frame(b"\x33\x33" + group[12:], mac, source, group, SOLICITATION, body)


def advertisement(address: bytes, mac: bytes) -> bytes:
    """`address` is at `mac` now, to all nodes, overriding what they know (RFC 4861, section 7.2.6)."""
    body = struct.pack("!I16sBB6s", _OVERRIDE, address, _TARGET_MAC, 1, mac)
    return _frame(ALL_NODES_MAC, mac, address, ALL_NODES, ADVERTISEMENT, body)


def parse(frame: bytes) -> tuple[bytes, bytes] | None:
    """Address and MAC that an advertisement claims; None if the frame is anything else or is damaged."""
    if len(frame) < _HEADER + 24 or frame[12:14] != _ETHERTYPE or frame[20] != _ICMPV6:
        return None
    message = frame[_HEADER : _HEADER + int.from_bytes(frame[18:20], "big")]
    hop_limit = frame[21]
    if hop_limit != 255 or len(message) < 24 or message[:2] != bytes((ADVERTISEMENT, 0)):
        return None
    if _checksum(frame[22:38], frame[38:54], message):
        return None
    options = message[24:]
    while len(options) >= 8 and options[1]:
        if options[0] == _TARGET_MAC:
            return message[8:24], options[2:8]
        options = options[8 * options[1] :]
    return message[8:24], frame[6:12]


def _frame(to: bytes, mac: bytes, source: bytes, destination: bytes, kind: int, body: bytes) -> bytes:
    message = struct.pack("!BBH", kind, 0, 0) + body
    message = struct.pack("!BBH", kind, 0, _checksum(source, destination, message)) + body
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), _ICMPV6, 255, source, destination)
    return to + mac + _ETHERTYPE + header + message


def _checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """Of the message with its pseudo header (RFC 8200, section 8.1); 0 over one that carries the right checksum."""
    data = source + destination + struct.pack("!II", len(message), _ICMPV6) + message
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
