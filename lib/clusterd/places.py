"""Where a group's addresses go on a node, and what that means in words of ``ip``: rules, routes, lifetimes."""

from typing import NamedTuple

from clusterd import nic
from clusterd.errors import Failed
from clusterd.model import Config, Node

TABLE = 6940
"""Routing table of the first group; the second's is the next, in the order of the nodes. Rules begin there, too."""
HOME_METRIC = 256
"""Of the default route of a group at home."""
FOREIGN_METRIC = 512
"""Of the routes of one that is not: its neighbours are reached through the home's NIC as long as there is one."""

_NAME_SIZE = 15


class Place(NamedTuple):
    """Where one group's addresses belong on this node."""

    group: str
    interface: str
    mac: str | None
    """What the interface uses while it holds the group; None: its MAC is left alone."""
    addresses: tuple[str, ...]
    gateway: tuple[str, ...]
    table: int
    home: bool
    link: str
    """The parent of a macvlan interface, which exists only while the group is here; else empty."""


def place(config: Config, group: str, me: Node) -> Place:
    """Where the addresses of `group` go on the node `me`: at home its main NIC, else as the method says.

    Raises:
        Failed: the method needs a redundant NIC, and the node has none.
    """
    home, method, index = config.nodes[group], config.failover.method, list(config.nodes).index(group)
    interface, link = me.interface, ""
    if group != me.name and method == "redundant_nic":
        if me.redundant is None:
            raise Failed(f"{me.name}.conf: [redundant] interface is missing: {group} has no NIC to go to")
        interface = me.redundant
    elif group != me.name and method == "macvlan":
        link, interface = me.interface, f"cd-{group}"
        if len(interface) > _NAME_SIZE:
            interface = f"cd{index}-{group}"[:_NAME_SIZE]
    mac = None if method == "address" else home.mac
    gateway = home.gateway or me.gateway
    return Place(group, interface, mac, home.addresses, gateway, TABLE + index, group == me.name, link)


def leased(address: str, where: Place, lease: float) -> str:
    """An address with its lifetime, as ``ip addr`` takes it. Whole seconds are all that the kernel knows."""
    family = "nodad" if ":" in address else "brd +"  # the LAN was asked already, and the kernel's own DAD takes 1 s
    metric = "" if where.home else f"metric {FOREIGN_METRIC}"
    return f"{address} {family} dev {where.interface} {metric} valid_lft {int(lease)} preferred_lft {int(lease)}"


def rules(where: Place) -> list[str]:
    """Replies leave by the NIC that holds the address: to its LAN, else where the main table knows better, else out."""
    if where.home or where.mac is None:
        return []
    first = TABLE + 3 * (where.table - TABLE)
    tables = (f"{where.table} suppress_prefixlength 0", "main suppress_prefixlength 0", f"{where.table}")
    hosts = [each.partition("/")[0] for each in where.addresses]
    return [f"from {host} pref {first + i} lookup {table}" for host in hosts for i, table in enumerate(tables)]


def routes(where: Place) -> list[str]:
    """In the main table the default route; for a group that is not at home its LAN and default in its own table.

    onlink: else IPv6 refuses a router while the NIC has no link. Not for the others: while the main table leads to the
    router by another NIC, the kernel refuses that, too.
    """
    dev = f"dev {where.interface}"
    families = {nic.family(each) for each in where.addresses}
    defaults = [f"default via {router} {dev}" for router in where.gateway if nic.family(router) in families]
    if where.home:
        return [f"{default} onlink metric {HOME_METRIC}" for default in defaults]
    lans = [f"{nic.network(each)} {dev}" for each in where.addresses]
    own = lans + defaults if rules(where) else []
    return [f"{route} table {where.table}" for route in own] + [f"{each} metric {FOREIGN_METRIC}" for each in defaults]
