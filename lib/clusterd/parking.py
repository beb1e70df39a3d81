"""The MAC address of a NIC: the group's while it holds one, its *parking* address while it holds none.

A NIC without a group must not send a single frame with a group's MAC: the switch would learn it on the wrong port.
"""

import json
import time

from clusterd import arp, netsettings, nic, paths, run, state
from clusterd.errors import Failed
from clusterd.model import Config, Node

LINK_TIMEOUT = 4.0
"""Seconds that a NIC may take to have a link after it was down: agreeing with the switch takes one to three."""
_TIMEOUT = 10.0


def park(config: Config, me: Node, interface: str) -> None:
    """Up and silent, with the parking MAC.

    The article leaves the redundant NIC down until it is needed. A real NIC then takes one to three seconds to
    agree on a speed with the switch, all of it outage; so here it is up beforehand, and answers for nobody.

    Raises:
        Failed: there is no such NIC, or it refuses.
    """
    if not nic.exists(interface):
        raise Failed(f"{interface}: no such network interface")
    netsettings.set_all(netsettings.of(netsettings.NO_LINK_LOCAL, interface))
    if interface == me.redundant:
        netsettings.set_all(netsettings.of(netsettings.SILENT, interface))
    if config.failover.method != "address":
        set_mac(interface, parking_mac(config, interface))
    if not nic.up(interface):
        run.check(["ip", "link", "set", "dev", interface, "up"], timeout=_TIMEOUT)


def bring_up(interface: str) -> None:
    """Up, with a link, if it has one at all: the wait is short, and nobody could be served meanwhile.

    Raises:
        Failed: the NIC refuses.
    """
    if not nic.up(interface):
        run.check(["ip", "link", "set", "dev", interface, "up"], timeout=_TIMEOUT)
    deadline = time.monotonic() + LINK_TIMEOUT
    while not nic.carrier(interface) and time.monotonic() < deadline and not run.dry_run:
        time.sleep(0.01)


def set_mac(interface: str, mac: str) -> None:
    """Give the NIC another MAC: live, or down and up again where the driver refuses that.

    Addresses that stay on the NIC are announced with the new MAC: others still have the old one in their tables.

    Raises:
        Failed: the NIC refuses it both ways.
    """
    if nic.mac(interface) == mac:
        return
    change = f"link set dev {interface} address {mac}"
    if not run.run(["ip", *change.split()], timeout=_TIMEOUT).ok:
        lines = (f"link set dev {interface} down", change, f"link set dev {interface} up")
        run.check(["ip", "-batch", "-"], stdin="\n".join(lines), timeout=_TIMEOUT)
    if not run.dry_run and nic.up(interface):
        arp.announce(interface, mac, [nic.text(each) for each in nic.addresses(interface)])


def parking_mac(config: Config, interface: str) -> str:
    """The factory's, unless that is a group's, as in the article; then the same marked as locally administered.

    If that is a group's as well: one made from names, the same at every start and different on every NIC.
    """
    taken = {node.mac for node in config.nodes.values()}
    factory = _factory_mac(interface)
    marked = f"{int(factory[:2], 16) | 2:02x}{factory[2:]}"
    free = [mac for mac in (factory, marked) if mac not in taken]
    return free[0] if free else _made_mac(f"{config.name}/{config.me().name}/{interface}")


def _made_mac(name: str) -> str:
    import hashlib

    return "02:" + hashlib.sha256(name.encode()).digest()[:5].hex(":")


def _factory_mac(interface: str) -> str:
    """The NIC's own address. Virtual NICs do not tell it: then what was first seen in this boot."""
    path = f"{paths.NICS}/{interface}.json"
    known = state.read(path)
    if known is None:
        answer = run.check(["ip", "-json", "link", "show", "dev", interface], timeout=_TIMEOUT, changes=False)
        link = json.loads(answer)[0]
        known = {"mac": link.get("permaddr") or link["address"]}
        if not run.dry_run:
            state.write(path, known, durable=False)
    return str(known["mac"])
