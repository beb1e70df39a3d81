"""What must agree between keys and between files, once each value by itself is right. No I/O."""

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from clusterd import configtypes, model, paths

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

NOT_MIRRORED = ("/proc/", "/sys/", "/dev/", "/run/", "/var/run/", "/var/lock/")
"""The kernel's, or gone at the next boot."""
WITH_NAME = ("systemd", "sysv", "ocf")
"""Kinds of services that need [run] name."""
ALONE = ("systemd", "sysv")
"""Kinds whose name stands for one thing that can run only once on a node."""
RESERVED = ("lan", "main", "heartbeat", "redundant", model.ALL_PATHS)
"""No names for further networks: these paths and NICs have them."""

_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Fault(NamedTuple):
    """One disagreement, blamed on one key."""

    file: str
    """Below the folder, without .conf."""
    section: tuple[str, ...]
    key: str
    found: str | Sequence[str]
    """Empty: the key is missing."""
    allowed: str


class Own(NamedTuple):
    """One address of a node, with the place where it stands."""

    node: str
    section: tuple[str, ...]
    key: str
    value: Interface


def check(config: model.Config, more: Iterable[Fault] = ()) -> list[str]:
    """All disagreements in `config`, a line each, in the order of the files; `more`: what another module has found."""
    faults = (*cluster(config), *more, *nodes(config), *addresses(config), *services(config), *mirrored(config))
    return [
        f"{config.folder}/{fault.file}.conf: "
        + where(fault.section, fault.key)
        + (f"found {quoted(fault.found)}" if fault.found else "missing")
        + f"; allowed: {fault.allowed}"
        for fault in faults
    ]


def where(section: Sequence[str], key: str) -> str:
    """``[main] address: ``, as it stands in every line about a key."""
    return _shown(f"{title(section)} {key}".strip()) + ": "


def title(section: Sequence[str]) -> str:
    """``[networks] [[plant]]``."""
    return " ".join("[" * depth + each + "]" * depth for depth, each in enumerate(section, 1))


def quoted(found: str | Sequence[str]) -> str:
    """What was found, on one line and not too long."""
    text = found if isinstance(found, str) else ", ".join(found)
    shown = _shown(text)
    return f"'{shown[:77]}...'" if len(shown) > 80 else f"'{shown}'"


def schedule(path: str, mirror: Any) -> list[str]:
    """[mirror] every and paths come together; `mirror` is the section as parsed."""
    if mirror["paths"] and mirror["every"] is None:
        check = "every"
        return [f"{path}: [mirror] every: missing; allowed: {configtypes.allowed(check)}"]
    if mirror["every"] is not None and not mirror["paths"]:
        return [f"{path}: [mirror] paths: missing; allowed: {configtypes.allowed('paths')}"]
    return []


def cluster(config: model.Config) -> Iterator[Fault]:
    """The nodes' names, the method, and the times that decide who may hold an address."""
    lower = [name.lower() for name in config.nodes]
    for name in config.nodes:
        if lower.count(name.lower()) > 1:
            yield Fault("cluster", (), "nodes", name, "names that differ in more than upper and lower case")
    yield from _options("cluster", config.fence.options, {"delay": "in NODE.conf, for one of the nodes"})
    for node in config.nodes.values():
        yield from _options(node.name, node.fence, dict.fromkeys(("agent", "action", "timeout"), "in cluster.conf"))
    if config.failover.method == "redundant_nic" and len(config.nodes) > 2:
        yield Fault("cluster", ("failover",), "method", "redundant_nic", "macvlan or address, with more than two nodes")
    shell = config.mirror.remote_shell
    if os.path.basename(shell[0]) == "rsh" and len(config.nodes) > 2:
        yield Fault("cluster", ("mirror",), "remote_shell", shell, "ssh, with more than two nodes")
    beat = config.heartbeat
    # As whole microseconds: 0.1 + 0.2 is more than 0.3.
    interval, isolated, dead = (round(each * 1e6) for each in (beat.interval, beat.isolated_after, beat.dead_after))
    if isolated <= interval:
        yield _time("isolated_after", isolated, f"more than interval, which is {_ms(interval)}")
    elif dead < isolated + interval:
        least = f"at least isolated_after + interval, which is {_ms(isolated + interval)}"
        yield _time("dead_after", dead, least)
    if config.failover.lease < 3 * beat.interval:
        allowed = f"at least three times [heartbeat] interval, which is {3 * beat.interval:g} s"
        yield Fault("cluster", ("failover",), "lease", f"{config.failover.lease:g} s", allowed)


def _options(file: str, options: Sequence[tuple[str, str]], elsewhere: dict[str, str]) -> Iterator[Fault]:
    """What goes to the fence agent; `elsewhere`: keys of ours that stand in the wrong file, and the right one."""
    for name, value in options:
        if name in elsewhere:
            yield Fault(file, ("fence",), name, value, f"{name} {elsewhere[name]} only")
        elif not _OPTION.fullmatch(name):
            yield Fault(file, ("fence",), name, name, "the name of an option of the agent: letters, digits and _ -")


def nodes(config: model.Config) -> Iterator[Fault]:
    """What each node needs for the method, its NICs, and the networks that all nodes must have."""
    method = config.failover.method
    first = next(iter(config.nodes.values()))
    macs: dict[str, str] = {}
    for node in config.nodes.values():
        if method != "address" and node.mac is None:
            yield Fault(node.name, ("main",), "mac", "", f"{configtypes.allowed('mac')}; with method = {method}")
        if node.mac and macs.setdefault(node.mac, node.name) != node.name:
            yield Fault(
                node.name, ("main",), "mac", node.mac, f"an address of its own; {macs[node.mac]}.conf has this one"
            )
        if method == "redundant_nic" and node.redundant is None:
            yield Fault(
                node.name, ("redundant",), "interface", "", f"{configtypes.allowed('nic')}; with method = {method}"
            )
        slow = 10 * config.heartbeat.interval  # it is spoken to with the datagrams
        if node.watchdog_device != "none" and node.watchdog_timeout < slow:
            allowed = f"at least ten times [heartbeat] interval, which is {slow:g} s"
            yield Fault(node.name, ("watchdog",), "timeout", f"{node.watchdog_timeout:g} s", allowed)
        yield from _nics(node)
        for network in node.networks[1:]:
            if not _NETWORK.fullmatch(network.name) or network.name in RESERVED:
                allowed = f"a name of letters, digits and _ -, other than {', '.join(RESERVED)}"
                yield Fault(node.name, ("networks",), network.name, network.name, allowed)
        for missing in sorted({each.name for each in first.networks} ^ {each.name for each in node.networks}):
            allowed = f"the same networks as in {first.name}.conf: {_names(first)}"
            yield Fault(node.name, ("networks",), missing, _names(node), allowed)


def addresses(config: model.Config) -> Iterator[Fault]:
    """The subnets of the LAN and of the networks between the nodes, and every address in its own."""
    own = list(_own(config))
    holders: dict[str, Own] = {}
    for each in own:
        holder = holders.setdefault(str(each.value.ip), each)
        if holder is not each:
            allowed = f"an address of its own; {holder.node}.conf has it in {title(holder.section)} {holder.key}"
            yield _address(each, allowed)
    lan: dict[int, Own] = {}
    between: dict[tuple[str, ...], Own] = {}
    for each in own:
        if each.section == ("main",):
            first, what = lan.setdefault(each.value.version, each), "the LAN"
        else:
            first, what = between.setdefault(each.section, each), title(each.section)
        if each.value.network != first.value.network:
            yield _address(each, f"one in {first.value.network}, {what} as {first.node}.conf has it")
    yield from _apart([*lan.values(), *between.values()])
    yield from _on_the_lan(config, [each.value.network for each in lan.values()], holders)


def services(config: model.Config) -> Iterator[Fault]:
    """Each service's home, and what its kind needs and does not know."""
    units: dict[str, str] = {}
    for service in config.services.values():
        file = f"services/{service.name}"
        if service.home not in config.nodes:
            yield Fault(file, (), "home", service.home, f"one of the nodes: {', '.join(config.nodes)}")
        unit = service.unit.removesuffix(".service")
        if service.kind in ALONE and unit and units.setdefault(unit, service.name) != service.name:
            other = f"a service that no other file starts; {units[unit]}.conf does"
            yield Fault(file, ("run",), "name", service.unit, other)
        for key, found, allowed in _unfit(service):
            yield Fault(file, ("run",), key, found, f"{allowed} with kind = {service.kind}")


def _unfit(service: model.Service) -> Iterator[tuple[str, str | Sequence[str], str]]:
    """Keys of [run] that the service's kind lacks, or does not know."""
    if service.kind in WITH_NAME and not service.unit:
        yield "name", "", f"{configtypes.allowed('unit')},"
    elif service.unit and service.kind not in WITH_NAME:
        yield "name", service.unit, "nothing"
    elif service.unit and (service.kind == "ocf") != service.unit.startswith("/"):
        yield "name", service.unit, "an absolute path" if service.kind == "ocf" else "a name, no path,"
    if service.kind != "ocf" and service.parameters:
        yield "parameters", service.parameters, "nothing"
    if any("=" not in word for word in service.parameters):
        yield "parameters", service.parameters, "name=value, a list,"
    for key, given in (("start", service.start), ("stop", service.stop), ("status", service.status)):
        if service.kind == "command" and not given and key != "status":
            yield key, "", f"{configtypes.allowed('words')},"
        elif service.kind != "command" and given:
            yield key, given, "nothing"


def mirrored(config: model.Config) -> Iterator[Fault]:
    """The mirrored paths: none that belongs to the system or to clusterd, and none inside another."""
    claimed: list[tuple[str, str]] = []
    state = f"{os.path.abspath(paths.STATE)}/"
    for service in config.services.values():
        file = f"services/{service.name}"
        for path in service.paths:
            folder = f"{path.rstrip('/')}/"
            if folder.startswith(NOT_MIRRORED):
                yield Fault(file, ("mirror",), "paths", path, "what survives a boot: not in /proc, /sys, /dev or /run")
            if _inside(folder, state) or _inside(state, folder):
                yield Fault(
                    file,
                    ("mirror",),
                    "paths",
                    path,
                    f"what does not contain or belong to {state}: it is each node's own",
                )
            for other, taken in claimed:
                if _inside(folder, taken) or _inside(taken, folder):
                    place = "this file" if other == service.name else f"{other}.conf"
                    yield Fault(
                        file,
                        ("mirror",),
                        "paths",
                        path,
                        f"paths apart from all others; {place} has {taken.rstrip('/')}",
                    )
            claimed.append((service.name, folder))


def _shown(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def _nics(node: model.Node) -> Iterator[Fault]:
    """Each network has a NIC of its own: otherwise one broken cable takes two paths away."""
    used = {node.interface: "[main]"}
    places = [(each.name, each.interface) for each in node.networks]
    if node.redundant:
        places.append(("redundant", node.redundant))
    for name, interface in places:
        if used.setdefault(interface, title(_section(name))) != title(_section(name)):
            yield Fault(
                node.name, _section(name), "interface", interface, f"a NIC of its own; {used[interface]} has this one"
            )


def _own(config: model.Config) -> Iterator[Own]:
    """All addresses of all nodes."""
    for node in config.nodes.values():
        for address in node.addresses:
            yield Own(node.name, ("main",), "address", ipaddress.ip_interface(address))
        for address in node.admin_addresses:
            yield Own(node.name, ("main",), "admin_address", ipaddress.ip_interface(address))
        for network in node.networks:
            yield Own(node.name, _section(network.name), "address", ipaddress.ip_interface(network.address))


def _apart(firsts: Sequence[Own]) -> Iterator[Fault]:
    """No two networks overlap: a datagram would take the other one's cable."""
    for number, one in enumerate(firsts):
        for other in firsts[:number]:
            if one.value.version == other.value.version and one.value.network.overlaps(other.value.network):
                yield _address(one, f"one outside {other.value.network}, the network of {title(other.section)}")


def _on_the_lan(config: model.Config, lan: Sequence[Subnet], holders: dict[str, Own]) -> Iterator[Fault]:
    """Reference hosts and routers: on the LAN, and no nodes."""
    subnets = " or ".join(map(str, lan))
    asked = [("cluster", ("reference",), "hosts", host) for host in config.reference]
    asked += [(node.name, ("main",), "gateway", host) for node in config.nodes.values() for host in node.gateway]
    for file, section, key, host in asked:
        address = ipaddress.ip_address(host)
        if host in holders:
            yield Fault(file, section, key, host, f"another machine; this is the node {holders[host].node}")
        elif not any(address in subnet for subnet in lan) and not (key == "gateway" and address.is_link_local):
            yield Fault(file, section, key, host, f"an address on the LAN, {subnets}")
        elif any(address in (subnet.network_address, subnet.broadcast_address) for subnet in lan):
            yield Fault(file, section, key, host, f"the address of a host on the LAN, {subnets}")


def _section(network: str) -> tuple[str, ...]:
    """Where a network, or the redundant NIC, stands in its node's file."""
    return (network,) if network in RESERVED else ("networks", network)


def _inside(folder: str, other: str) -> bool:
    return folder.startswith(other)


def _address(each: Own, allowed: str) -> Fault:
    return Fault(each.node, each.section, each.key, str(each.value), allowed)


def _time(key: str, found: int, allowed: str) -> Fault:
    return Fault("cluster", ("heartbeat",), key, _ms(found), allowed)


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:g} ms"


def _names(node: model.Node) -> str:
    return ", ".join(each.name for each in node.networks)
