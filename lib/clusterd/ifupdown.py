"""The network driver ``ifupdown``: the distribution's ifup and ifdown bring NICs up and down, as in the article.

Their files must then say what the configuration says, the MAC above all, and nothing may bring these NICs up at boot.
Debian: the stanza of the main NIC, and one named after each peer's group (``ifup eth2=serv2``), in
/etc/network/interfaces. Red Hat: ifcfg-eth0, and ifcfg-GROUP with DEVICE=eth2, in /etc/sysconfig/network-scripts.

ifup sets addresses for ever; they get their lease as soon as it has returned.
"""

import fnmatch
import glob
import os
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clusterd import log, nic, parking, paths, run
from clusterd.errors import Failed
from clusterd.model import Config, Node

_TIMEOUT = 30.0
_DEBIAN_STARTS = ("iface", "mapping", "rename", "template", "source", "source-directory")
_RED_HAT_IGNORES = ("~", ".bak", ".old", ".orig", ".rpmnew", ".rpmorig", ".rpmsave")


class Stanza(NamedTuple):
    """What a file says of one interface by the name that ifup is given."""

    file: str
    title: str
    """As a person finds it: "iface serv2 inet"; empty if the file has one only."""
    name: str
    family: str
    """inet, inet6, or "" for both."""
    method: str
    device: str
    """The NIC, where the file names it; else empty."""
    addresses: tuple[tuple[str, str], ...]
    """Option and address, with prefix length."""
    macs: tuple[str, ...]
    options: dict[str, str]

    def wrong(self, option: str, found: str, allowed: str) -> str:
        """A problem, as one line."""
        where = f"{self.file}: {self.title}: {option}" if self.title else f"{self.file}: {option}"
        return f"{where}: found '{found}'; allowed: {allowed}" if found else f"{where}: missing; allowed: {allowed}"


def check(config: Config, me: Node) -> list[str]:
    """What in the distribution's files does not fit the configuration: file, stanza, option, found, allowed."""
    if me.driver != "ifupdown":
        return []
    groups = [me.name] + [name for name in config.nodes if name != me.name and me.redundant]
    problems = [problem for group in groups for problem in _check_group(config, me, group)]
    nics = {me.interface, me.redundant or me.interface}
    return problems + list(_debian_at_boot(nics, groups) if _debian() else _red_hat_at_boot(nics))


def up(config: Config, me: Node, group: str) -> None:
    """Let ifup bring up the NIC of `group` on this node. If it fails, once more after an ifdown.

    Raises:
        Failed: its files do not fit the configuration: it would put up another MAC or another address.
    """
    problems = _check_group(config, me, group)
    if problems:
        raise Failed(problems[0])
    interface, mac = _interface(me, group), config.nodes[group].mac
    if mac and config.failover.method != "address":
        parking.set_mac(interface, mac)  # ifup would do it after the address, for a moment with the wrong MAC
    argument = _argument(me, group)
    result = run.run(["ifup", argument], timeout=_TIMEOUT)
    if not result.ok:
        run.run(["ifdown", *(["--force"] if _debian() else []), argument], timeout=_TIMEOUT)
        result = run.run(["ifup", argument], timeout=_TIMEOUT)
    if not result.ok:
        log.event("ifup-failed", result.why(), level="warning", group=group, interface=interface)


def down(me: Node, group: str) -> None:
    """Let ifdown take the NIC of `group` down; harmless if ifup has not brought it up."""
    result = run.run(["ifdown", _argument(me, group)], timeout=_TIMEOUT)
    if not result.ok:
        log.event("ifdown-failed", result.why(), level="warning", group=group, interface=_interface(me, group))


def _interface(me: Node, group: str) -> str:
    return me.interface if group == me.name else me.redundant or ""


def _name(me: Node, group: str) -> str:
    """What the files call it: the main NIC by itself, a peer's group by the group's name."""
    return me.interface if group == me.name else group


def _argument(me: Node, group: str) -> str:
    """What ifup and ifdown are given: Debian wants the NIC as well, ``eth2=serv2``."""
    return _name(me, group) if group == me.name or not _debian() else f"{me.redundant}={group}"


def _debian() -> bool:
    return os.path.exists(paths.INTERFACES) or not os.path.isdir(paths.IFCFG)


def _check_group(config: Config, me: Node, group: str) -> list[str]:
    name = _name(me, group)
    found = [each for each in (_debian_stanzas() if _debian() else _red_hat_files()) if each.name == name]
    if not found:
        where = f"{paths.INTERFACES}: iface {name}" if _debian() else f"{paths.IFCFG}/ifcfg-{name}"
        return [f"{where}: missing; allowed: with the addresses and the MAC of {group}"]
    home = config.nodes[group]
    mac = None if config.failover.method == "address" else home.mac
    problems = [problem for stanza in found for problem in _check_stanza(stanza, home.addresses, mac)]
    problems += _check_complete(found, home.addresses, mac)
    interface = _interface(me, group)
    problems += [each.wrong("DEVICE", each.device, interface) for each in found if each.device not in {"", interface}]
    return problems


def _check_stanza(stanza: Stanza, addresses: Iterable[str], mac: str | None) -> Iterator[str]:
    """What one stanza says too much or wrong."""
    known = {_canonical(each) for each in addresses}
    allowed = ", ".join(addresses)
    if stanza.method not in {"static", "none", ""}:
        yield stanza.wrong("method", stanza.method, "static")
    for option, address in stanza.addresses:
        if _canonical(address) not in known:
            yield stanza.wrong(option, address, allowed)
    for found in stanza.macs:
        if found != mac:
            option = "hwaddress" if stanza.title else "MACADDR"
            yield stanza.wrong(option, found, mac or "none, with method = address")
    if stanza.family == "inet6" and stanza.options.get("dad-attempts") != "0":
        why = "0: the LAN was asked before, and a takeover would take two seconds longer"
        yield stanza.wrong("dad-attempts", stanza.options.get("dad-attempts", ""), why)
    if not stanza.title and stanza.options.get("ARPCHECK", "").lower() != "no":
        why = "no: the LAN was asked before, and a takeover would take seconds longer"
        yield stanza.wrong("ARPCHECK", stanza.options.get("ARPCHECK", ""), why)


def _check_complete(found: list[Stanza], addresses: Iterable[str], mac: str | None) -> Iterator[str]:
    """What none of the stanzas of one name says."""
    there = {_canonical(address) for stanza in found for _, address in stanza.addresses}
    debian = bool(found[0].title)
    for address in addresses:
        if _canonical(address) not in there:
            option = "address" if debian else "IPV6ADDR" if ":" in address else "IPADDR"
            yield found[0].wrong(option, "", address)
    if mac and not any(stanza.macs for stanza in found):
        yield found[0].wrong("hwaddress" if debian else "MACADDR", "", mac)


def _canonical(address: str) -> tuple[bytes, str]:
    try:
        return nic.packed(address), address.partition("/")[2]
    except OSError:
        return address.encode(), ""


def _prefix(netmask: str) -> str:
    """A netmask as prefix length: 24 of 255.255.255.0."""
    try:
        return str(int.from_bytes(nic.packed(netmask), "big").bit_count()) if "." in netmask else netmask
    except OSError:
        return netmask


def _debian_lines(file: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of `file` and of what it includes, each with its file, as words; see interfaces(5)."""
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            text = opened.read().replace("\\\n", " ")
    except OSError:
        return
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        yield file, words
        if words[0] in {"source", "source-directory"} and len(words) > 1:
            pattern = os.path.join(os.path.dirname(file), words[1])
            pattern = f"{pattern}/*" if words[0] == "source-directory" else pattern
            for included in sorted(glob.glob(pattern)):
                yield from _debian_lines(included)


def _debian_stanzas() -> list[Stanza]:
    blocks: list[tuple[str, list[str], list[list[str]]]] = []
    open_block = False
    for file, words in _debian_lines(paths.INTERFACES):
        if words[0] in _DEBIAN_STARTS or words[0] == "auto" or words[0].startswith(("allow-", "no-")):
            open_block = words[0] == "iface" and len(words) >= 4
            if open_block:
                blocks.append((file, words, []))
        elif open_block:
            blocks[-1][2].append(words)
    return [_debian_stanza(file, head, body) for file, head, body in blocks]


def _debian_stanza(file: str, head: list[str], body: list[list[str]]) -> Stanza:
    options = {words[0]: " ".join(words[1:]) for words in body}
    mask = options.get("netmask", "")
    plain = [words[1] for words in body if words[0] == "address" and len(words) > 1]
    addresses = [each if "/" in each or not mask else f"{each}/{_prefix(mask)}" for each in plain]
    macs = [words[-1].lower() for words in body if words[0] == "hwaddress"]
    title = f"iface {head[1]} {head[2]}"
    written = tuple(("address", each) for each in addresses)
    return Stanza(file, title, head[1], head[2], head[3], "", written, tuple(macs), options)


def _debian_at_boot(nics: set[str], groups: list[str]) -> Iterator[str]:
    """NICs that Debian brings up by itself. A pattern begins with a slash: ``auto /eth*``."""
    for file, words in _debian_lines(paths.INTERFACES):
        if words[0] not in {"auto", "allow-auto", "allow-hotplug"}:
            continue
        for word in words[1:]:
            device, _, logical = word.partition("=")
            hit = any(fnmatch.fnmatch(each, device[1:]) if device.startswith("/") else each == device for each in nics)
            if hit or logical in groups:
                yield f"{file}: {words[0]}: found '{word}'; allowed: not this NIC, clusterd brings it up"


def _red_hat_files() -> list[Stanza]:
    files = sorted(glob.glob(f"{glob.escape(paths.IFCFG)}/ifcfg-*"))
    return [_red_hat_file(file) for file in files if not file.endswith(_RED_HAT_IGNORES)]


def _red_hat_file(file: str) -> Stanza:
    """One ifcfg-NAME: shell assignments, of which IPADDR, PREFIX and NETMASK may be numbered."""
    with open(file, encoding="utf-8", errors="replace") as opened:
        lines = [line.partition("=") for line in opened if "=" in line and not line.lstrip().startswith("#")]
    options = {key.strip(): " ".join(_shell_words(value)) for key, _, value in lines}
    written = []
    for key, value in options.items():
        number = key.removeprefix("IPADDR")
        if key.startswith("IPADDR") and (number == "" or number.isdigit()):
            size = options.get(f"PREFIX{number}") or _prefix(options.get(f"NETMASK{number}", ""))
            written.append((key, f"{value}/{size}"))
        elif key in {"IPV6ADDR", "IPV6ADDR_SECONDARIES"}:
            written += [(key, each) for each in value.split()]
    mac = options.get("MACADDR", "").lower()
    name = os.path.basename(file).removeprefix("ifcfg-")
    method = options.get("BOOTPROTO", "")
    return Stanza(
        file, "", name, "", method, options.get("DEVICE", name), tuple(written), (mac,) if mac else (), options
    )


def _shell_words(value: str) -> list[str]:
    try:
        return shlex.split(value, comments=True)
    except ValueError:
        return [value.strip()]


def _red_hat_at_boot(nics: set[str]) -> Iterator[str]:
    """NICs that Red Hat brings up by itself: all whose file does not say no."""
    for each in _red_hat_files():
        if each.device in nics and each.options.get("ONBOOT", "").lower() != "no":
            yield each.wrong("ONBOOT", each.options.get("ONBOOT", ""), "no, clusterd brings it up")
