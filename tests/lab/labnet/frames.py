"""Reading Ethernet frames: who claims, on the wire, to be an address. Pure; runs in the probe's process."""

import ipaddress
import struct
from functools import lru_cache
from typing import NamedTuple

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, ICMPV6 = 1, 6, 58
SYN_ACK = 0x12
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
NLM_F_REQUEST_DUMP = 0x301


class Claim(NamedTuple):
    """One frame by which its sender says "this address is mine"."""

    what: str
    """arp-request, arp-reply, announcement, echo-reply, syn-ack, advertisement or frame."""
    mac: str
    """The MAC address that it gives for the address: in ARP and ND the one in the message, else the frame's source."""
    source: str
    """The frame's source MAC address."""


# Classic BPF (linux/filter.h): what the kernel need not even hand out.
LOAD_BYTE, LOAD_HALF, LOAD_WORD, IS_EQUAL, HAS_BITS, TAKE = 0x30, 0x28, 0x20, 0x15, 0x45, 0x06
LOAD_BYTE_BEHIND_HEADER, HEADER_LENGTH = 0x50, 0xB1
PACKET_TYPE = 0xFFFFF004
"""SKF_AD_OFF + SKF_AD_PKTTYPE: not from the frame, but what the kernel knows of it."""
PACKET_OUTGOING = 4


@lru_cache
def packed(address: str) -> bytes:
    """An address as it is in a frame."""
    return ipaddress.ip_address(address).packed


def only(address: str, *, claims: bool) -> bytes:
    """A socket filter (struct sock_filter, 8 bytes each): frames that come in and are ARP, ND or, with `claims`, an
    echo reply or the first answer to a connection of the address. Of IPv6 more than that gets through.
    """
    if len(packed(address)) == 16:
        program = [
            (LOAD_WORD, 0, 0, PACKET_TYPE),
            (IS_EQUAL, 3, 0, PACKET_OUTGOING),
            (LOAD_HALF, 0, 0, 12),
            (IS_EQUAL, 0, 1, IPV6),
            (TAKE, 0, 0, 0xFFFF),
            (TAKE, 0, 0, 0),
        ]
    else:
        (source,) = struct.unpack("!I", packed(address))
        program = [
            (LOAD_WORD, 0, 0, PACKET_TYPE),
            (IS_EQUAL, 13, 0, PACKET_OUTGOING),
            (LOAD_HALF, 0, 0, 12),
            (IS_EQUAL, 10, 0, ARP),
            (IS_EQUAL, 0 if claims else 10, 10, IPV4),
            (LOAD_WORD, 0, 0, 14 + 12),
            (IS_EQUAL, 0, 8, source),
            (LOAD_BYTE, 0, 0, 14 + 9),
            (IS_EQUAL, 5, 0, ICMP),
            (IS_EQUAL, 0, 5, TCP),
            (HEADER_LENGTH, 0, 0, 14),
            (LOAD_BYTE_BEHIND_HEADER, 0, 0, 14 + 13),
            (HAS_BITS, 0, 2, SYN_ACK & 0x02),
            (HAS_BITS, 0, 1, SYN_ACK & 0x10),
            (TAKE, 0, 0, 0xFFFF),
            (TAKE, 0, 0, 0),
        ]
    return b"".join(struct.pack("=HBBI", *each) for each in program)


def mac_text(raw: bytes) -> str:
    """A MAC address as people write it."""
    return ":".join(f"{byte:02x}" for byte in raw)


def claim(frame: bytes, address: str) -> Claim | None:
    """What `frame` claims for `address`, None if nothing. Frames cut short claim nothing."""
    wanted = packed(address)
    (kind,) = struct.unpack_from("!H", frame, 12) if len(frame) >= 34 else (0,)
    body = frame[14:]
    if kind == ARP and len(wanted) == 4:
        found = _arp(body, wanted)
    elif kind == IPV4 and body[12:16] == wanted:
        found = _ipv4(body), b""
    elif kind == IPV6 and len(wanted) == 16:
        found = _ipv6(body, wanted)
    else:
        return None
    what, mac = found
    source = frame[6:12]
    return Claim(what, mac_text(mac or source), mac_text(source)) if what else None


def _arp(body: bytes, wanted: bytes) -> tuple[str, bytes]:
    (operation,) = struct.unpack_from("!H", body, 6)
    sender, sender_ip, target_ip = body[8:14], body[14:18], body[24:28]
    if sender_ip != wanted:
        return "", b""
    if target_ip == wanted:
        return "announcement", sender
    return ("arp-reply" if operation == 2 else "arp-request"), sender


def _ipv4(body: bytes) -> str:
    start = (body[0] & 15) * 4
    if body[9] == ICMP and body[start : start + 1] == b"\0":
        return "echo-reply"
    return "syn-ack" if body[9] == TCP and _flags(body, start) & SYN_ACK == SYN_ACK else "frame"


def _ipv6(body: bytes, wanted: bytes) -> tuple[str, bytes]:
    following, kind = body[6], body[40:41]
    if following == ICMPV6 and kind == b"\x88":
        return ("advertisement", _link_layer_option(body[64:])) if body[48:64] == wanted else ("", b"")
    if body[8:24] != wanted:
        return "", b""
    if following == ICMPV6 and kind == b"\x81":
        return "echo-reply", b""
    return ("syn-ack" if following == TCP and _flags(body, 40) & SYN_ACK == SYN_ACK else "frame"), b""


def _flags(body: bytes, start: int) -> int:
    return body[start + 13] if len(body) > start + 13 else 0


def _link_layer_option(options: bytes) -> bytes:
    """The target's MAC address in a neighbour advertisement (RFC 4861, section 4.6.1)."""
    return options[2:8] if options[:2] == b"\x02\x01" else b""


def question(address: str, mac: str) -> bytes:
    """The broadcast "who has this address?" of somebody who has none itself, and of whom nobody takes notice.

    For IPv4 that is an ARP probe (RFC 5227), which leaves no entry anywhere. For IPv6 it is a solicitation from the
    link-local address of that MAC: one from :: would claim the address (RFC 4862).
    """
    target, sender = packed(address), bytes.fromhex(mac.replace(":", ""))
    if len(target) == 4:
        message = struct.pack("!HHBBH6s4s6s4s", 1, IPV4, 6, 4, 1, sender, bytes(4), bytes(6), target)
        return b"\xff" * 6 + sender + struct.pack("!H", ARP) + message
    source = packed("fe80::")[:8] + bytes((sender[0] ^ 2, *sender[1:3], 0xFF, 0xFE, *sender[3:]))
    group = packed("ff02::1:ff00:0")[:13] + target[13:]
    option = b"\x01\x01" + sender
    message = struct.pack("!BBHI16s8s", 135, 0, 0, 0, target, option)
    pseudo = source + group + struct.pack("!II", len(message), ICMPV6)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), ICMPV6, 255, source, group)
    return b"\x33\x33" + group[12:] + sender + struct.pack("!H", IPV6) + header + message


def echo_request(v6: bool, identity: int, sequence: int) -> bytes:
    """An ICMP echo request; for IPv6 the kernel fills in the checksum."""
    message = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, identity, sequence & 0xFFFF) + b"clusterd-lab-probe"
    return message if v6 else message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def checksum(message: bytes) -> int:
    """The Internet checksum (RFC 1071) of a message of even length."""
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def echo_reply(packet: bytes, v6: bool, identity: int) -> int | None:
    """The sequence number of an echo reply to `identity`, as a raw socket gives it; None if it is something else."""
    body = packet if v6 else packet[(packet[0] & 15) * 4 :]
    if len(body) < 8 or body[0] != (129 if v6 else 0):
        return None
    _, _, _, found, sequence = struct.unpack_from("!BBHHH", body)
    return int(sequence) if found == identity else None


def neighbour_dump() -> bytes:
    """The message that asks the kernel for its whole neighbour table."""
    return struct.pack("=IHHII", 28, RTM_GETNEIGH, NLM_F_REQUEST_DUMP, 1, 0) + bytes(12)


def neighbour(message: bytes, address: str) -> str:
    """The MAC of a kernel's neighbour message (rtnetlink RTM_NEWNEIGH) for `address`; empty for another, or none."""
    wanted, found, mac = packed(address), b"", ""
    _, kind, _, _, _ = struct.unpack_from("=IHHII", message)
    if kind != RTM_NEWNEIGH:
        return ""
    offset = 16 + 12
    while offset + 4 <= len(message):
        length, attribute = struct.unpack_from("=HH", message, offset)
        if length < 4:
            break
        value = message[offset + 4 : offset + length]
        if attribute == 1:
            found = value
        elif attribute == 2:
            mac = mac_text(value)
        offset += (length + 3) & ~3
    return mac if found == wanted else ""
