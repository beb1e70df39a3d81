"""The switch and the cables: bridges in a network namespace of their own.

The LAN is one learning bridge. Between each machine and its port of the bridge lies a wall socket, a bridge of two
ports that learns nothing: when a machine loses its link, the machine's side goes down, but the switch sees no link
go and forgets no MAC address until its ageing time is over, as with a real switch one cupboard further.
The heartbeat is a crossover cable: either end without power or plug, and both ends lose the carrier.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from .plan import MACHINES, NODES, Machine, Nic, Place
from .proc import run

LAN, CROSSOVER = "lan", "crossover"
QUIET = "for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $file; done"
"""A switch has no IPv6 of its own: its bridges must not send a single frame."""
AGEING = 300
"""Seconds; what switches and Linux have by default."""


def ip(netns: str, *words: str, check: bool = True) -> str:
    """Run one `ip` command in a network namespace."""
    return run(["ip", "-n", netns, *words], check=check).stdout


def ip_json(netns: str, *words: str) -> list[dict[str, Any]]:
    """What one `ip -json` command says."""
    return json.loads(ip(netns, "-details", "-json", *words) or "[]")  # type: ignore[no-any-return]


def batch(netns: str, lines: Iterable[str]) -> None:
    """Run several `ip` commands in one process; the first that fails ends it with LabError."""
    text = "\n".join(lines)
    if text:
        run(["ip", "-n", netns, "-batch", "-"], text_in=text + "\n")


def port(machine: Machine, nic: Nic) -> str:
    """The far end of a machine's cable."""
    return f"{machine.name}-{nic.name}"


def switch_side(machine: Machine, nic: Nic) -> str:
    """The port of the LAN bridge that a machine's wall socket leads to."""
    return f"w-{port(machine, nic)}"


def all_nics() -> list[tuple[Machine, Nic]]:
    """Every NIC of every machine."""
    return [(machine, nic) for machine in MACHINES.values() for nic in machine.nics]


def exists(netns: str) -> bool:
    """True when the network namespace is there."""
    return any(row["name"] == netns for row in netns_list())


def netns_list() -> list[dict[str, Any]]:
    """The named network namespaces of this host."""
    return json.loads(run(["ip", "-json", "netns", "list"]).stdout or "[]")  # type: ignore[no-any-return]


def _socket(machine: Machine, nic: Nic) -> list[str]:
    """The wall socket of one LAN cable, and its line to the switch."""
    name, wall = port(machine, nic), f"s-{port(machine, nic)}"
    return [
        f"link add {wall} type bridge stp_state 0 mcast_snooping 0",
        f"link add w-{name} type veth peer name x-{name}",
        f"link set w-{name} master {LAN}",
        f"link set x-{name} master {wall}",
        f"link set x-{name} type bridge_slave learning off",
        f"link set {wall} up",
        f"link set w-{name} up",
        f"link set x-{name} up",
    ]


def build(place: Place) -> None:
    """Make the switch with its sockets; nothing is plugged in yet."""
    run(["ip", "netns", "add", place.switch])
    run(["ip", "netns", "exec", place.switch, "sh", "-c", QUIET])
    lines = ["link set lo up"]
    for bridge in (LAN, CROSSOVER):
        lines += [
            f"link add {bridge} type bridge stp_state 0 mcast_snooping 0 ageing_time {AGEING * 100}",
            f"link set {bridge} up",
        ]
    for machine, nic in all_nics():
        if nic.segment == "lan":
            lines += _socket(machine, nic)
    batch(place.switch, lines)


def connect(place: Place, machine: Machine) -> None:
    """Give a machine its NICs with their factory MACs, cables plugged in, links still down at the socket."""
    lines = []
    for nic in machine.nics:
        name = port(machine, nic)
        bridge = f"s-{name}" if nic.segment == "lan" else CROSSOVER
        lines += [
            f"link add {name} type veth peer name {nic.name} address {nic.mac} netns {place.netns(machine.name)}",
            f"link set {name} master {bridge}",
            f"link set {name} type bridge_slave learning off",
        ]
    batch(place.switch, lines)


def wanted(powered: Iterable[str], pulled: Iterable[str], switch_on: bool = True) -> dict[str, bool]:
    """Which ports have a live link: {port name: up}. Pure.

    `powered` names the machines that are on; `pulled` has the cables out, as "serv1/eth0", and "crossover" for the
    heartbeat cable itself.
    """
    on, out = set(powered), set(pulled)
    ports = {}
    for machine, nic in all_nics():
        live = machine.name in on and f"{machine.name}/{nic.name}" not in out
        if nic.segment == "lan":
            live = live and switch_on
        else:
            live = live and CROSSOVER not in out and _far_end_lives(machine, on, out)
        ports[port(machine, nic)] = live
    return ports


def _far_end_lives(machine: Machine, on: set[str], out: set[str]) -> bool:
    (other,) = (name for name in NODES if name != machine.name)
    nic = next(nic for nic in MACHINES[other].nics if nic.segment == "heartbeat")
    return other in on and f"{other}/{nic.name}" not in out


def set_links(place: Place, ports: dict[str, bool]) -> None:
    """Set the ports that exist up or down, those that go down first."""
    present = {row["ifname"]: "UP" in row["flags"] for row in ip_json(place.switch, "link", "show")}
    changes = [(live, name) for name, live in ports.items() if name in present and present[name] != live]
    batch(place.switch, (f"link set {name} {'up' if live else 'down'}" for live, name in sorted(changes)))


def links_down(place: Place, machine: Machine) -> None:
    """Cut every cable of a machine at the far end, at once, the main one first."""
    batch(place.switch, (f"link set {port(machine, nic)} down" for nic in machine.nics))


def remove_links(place: Place, machine: Machine) -> None:
    """Take a machine's NICs away."""
    present = {row["ifname"] for row in ip_json(place.switch, "link", "show")}
    names = [port(machine, nic) for nic in machine.nics]
    batch(place.switch, (f"link del {name}" for name in names if name in present))


def set_isolated(place: Place, machines: Sequence[Machine], isolated: bool) -> None:
    """Keep the LAN ports of `machines` from each other (all others see them), or let them talk again."""
    flag = "on" if isolated else "off"
    lines = [
        f"link set {switch_side(machine, nic)} type bridge_slave isolated {flag}"
        for machine in machines
        for nic in machine.nics
        if nic.segment == "lan"
    ]
    batch(place.switch, lines)


def set_ageing(place: Place, seconds: float) -> None:
    """How long the LAN switch remembers where a MAC address is."""
    ip(place.switch, "link", "set", LAN, "type", "bridge", "ageing_time", str(int(seconds * 100)))


def ageing(place: Place) -> float:
    """The ageing time of the LAN switch, in seconds."""
    (row,) = ip_json(place.switch, "link", "show", LAN)
    return float(row["linkinfo"]["info_data"]["ageing_time"]) / 100


def learned(place: Place) -> dict[str, str]:
    """What the LAN switch has learned: {MAC address: "machine-NIC" of its port}."""
    rows = json.loads(run(["bridge", "-n", place.switch, "-json", "fdb", "show", "br", LAN]).stdout or "[]")
    return {row["mac"]: row["ifname"][2:] for row in rows if row.get("state") != "permanent" and "mac" in row}


def forget(place: Place) -> None:
    """Make the LAN switch forget every MAC address that it has learned, as one does that was switched off."""
    ports = (row["ifname"] for row in ip_json(place.switch, "link", "show", "master", LAN))
    batch(place.switch, (f"link set {name} type bridge_slave fdb_flush" for name in ports))
