"""The forms of single words in the configuration: names, addresses, programs, paths. Pure; text in, yes or no out."""

import ipaddress
import re

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
"""One label of a host name, RFC 1123."""
_NODE = re.compile(_LABEL)
_FULL_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@+-]{0,63}")
_NIC = re.compile(r"[A-Za-z0-9_@.-]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&*+/=?^_`{|}~][A-Za-z0-9.!#$%&*+/=?^_`{|}~-]*(?:@[A-Za-z0-9.:\[\]-]+)?")
_SMTP = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
_UNIT = re.compile(r"/?[A-Za-z0-9:_.@\\-][A-Za-z0-9:_.@\\/-]*")


def is_node(text: str) -> bool:
    """A hostname without its domain; "cluster" is none, because its file would be cluster.conf."""
    return bool(_NODE.fullmatch(text)) and text.lower() != "cluster"


def is_service(text: str) -> bool:
    """The name of a service: it goes into file names, backup sets, and what nodes ask of each other."""
    return bool(_SERVICE.fullmatch(text))


def is_nic(text: str) -> bool:
    """What Linux takes as the name of an interface (IFNAMSIZ), and what is no trouble in a command or a path."""
    return bool(_NIC.fullmatch(text)) and text not in ("lo", ".", "..")


def is_mac(text: str) -> bool:
    """A MAC address of one machine, in lower case: the lowest bit of the first byte marks group addresses."""
    return bool(_MAC.fullmatch(text)) and not int(text[:2], 16) & 1 and text != "00:00:00:00:00:00"


def is_host(text: str) -> bool:
    """An address that one host can have."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        odd = found.scope_id is not None or found.ipv4_mapped is not None
    else:
        odd = found.is_reserved
    return not (odd or found.is_unspecified or found.is_loopback or found.is_multicast)


def host(text: str) -> str:
    """An address as the kernel writes it."""
    return str(ipaddress.ip_address(text))


def is_interface(text: str) -> bool:
    """An address of a host, with its prefix length as a number."""
    address, slash, prefix = text.partition("/")
    if not slash or not prefix.isdigit() or not is_host(address):
        return False
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        return False
    ends = (found.network.network_address, found.network.broadcast_address)
    return not found.ip.is_link_local and (found.network.num_addresses <= 2 or found.ip not in ends)


def interface(text: str) -> str:
    """An address with its prefix length, as the kernel writes it."""
    return ipaddress.ip_interface(text).with_prefixlen


def is_server(text: str) -> bool:
    """A host name, with or without its domain, or an address."""
    return bool(_FULL_NAME.fullmatch(text)) or is_host(text)


def is_mailbox(text: str) -> bool:
    """A mail address or a local user; none begins with a hyphen, which sendmail would take for an option."""
    return bool(_MAILBOX.fullmatch(text))


def is_smtp(text: str) -> bool:
    """Host or host:port, an IPv6 address in brackets; or nothing."""
    if not text:
        return True
    match = _SMTP.fullmatch(text)
    if not match or (match[2] and not 0 < int(match[2]) < 65536):
        return False
    name = match[1]
    return is_host(name[1:-1]) and ":" in name if name.startswith("[") else bool(_FULL_NAME.fullmatch(name))


def is_unit(text: str) -> bool:
    """A unit or init script, or the absolute path of an agent."""
    return bool(_UNIT.fullmatch(text))


def is_program(text: str) -> bool:
    """A name on PATH or an absolute path; one with a space is nearly always a command not written as a list."""
    if not text or text.startswith("-") or set(text) & set(" '\""):
        return False
    return "/" not in text or (text.startswith("/") and not text.endswith("/"))


def is_device(text: str) -> bool:
    """none, or a path below /dev in its shortest form."""
    return text == "none" or (text.startswith("/dev/") and is_mirrored(text) and not text.endswith("/"))


def is_mirrored(text: str) -> bool:
    """An absolute path in its shortest form, and not the root; a slash at its end is allowed."""
    parts = text.split("/")
    inner = parts[1:-1] if text.endswith("/") else parts[1:]
    return text.startswith("/") and bool(inner) and not set(inner) & {"", ".", ".."}


def is_endpoint(text: str) -> bool:
    """A URL of a host and a port, and nothing behind it."""
    scheme, _, rest = text.partition("://")
    return scheme in ("http", "https") and ":" in rest.rpartition("]")[2] and is_smtp(rest)


def is_file(text: str) -> bool:
    """An absolute path in its shortest form."""
    return is_mirrored(text) and not text.endswith("/")
