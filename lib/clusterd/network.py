"""Where a group's addresses go on this node, and the raising and dropping of them there.

Addresses are set with a lifetime, the lease: `lease.Keeper` renews it, and a node whose programs are dead falls
silent by itself. The order is always: MAC first, then the address; the address first when it all goes away.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial

from clusterd import arp, iproute, log, netsettings, nic, ownership, parking, places, run
from clusterd.errors import Failed
from clusterd.model import Config, Node
from clusterd.places import Place as Place
from clusterd.places import place as place

_TIMEOUT = 10.0
_ASK_TIMEOUT = 0.2
_IPV6_METRIC = 256
"""Of the kernel's own routes."""


def prepare(config: Config) -> list[str]:
    """Make the main and the redundant NIC ready: up, silent, with the parking MAC and nobody's address.

    What a crash left over is removed; a group held in this boot is not disturbed, so this may run at every start of
    the watchdog. Returns what could not be done, a line each: one broken NIC must not keep the other from serving.
    """
    me = config.me()
    held = [place(config, group.name, me) for group in config.groups() if ownership.known_to_hold(group.name)]
    problems = _attempt(partial(_remove_strays, config, held))
    for name in config.nodes.keys() - {where.group for where in held}:
        problems += _attempt(partial(_drop, config, name, me))
    for interface in {me.interface, me.redundant or me.interface} - {where.interface for where in held}:
        problems += _attempt(partial(parking.park, config, me, interface))
    problems += _attempt(partial(_raise_admin, me))
    if me.driver == "ifupdown":
        from clusterd import ifupdown

        problems += ifupdown.check(config, me)
    if netsettings.read("ipv4/conf/all/arp_ignore") not in {"0", "1", None}:
        problems.append(
            "net.ipv4.conf.all.arp_ignore is above 1: this node would not answer a peer's probe; set it to 0"
        )
    return problems


def raise_group(config: Config, where: Place) -> None:
    """Put the group's MAC and addresses where they belong, the addresses with the lease. Repeating it is harmless.

    Raises:
        Failed: the MAC or an address could not be set; or the NIC holds another group.
    """
    me = config.me()
    _refuse_second(config, me, where)
    _prepare_nic(config, me, where)
    lines = [f"rule add {rule}" for rule in places.rules(where)]
    lines += [f"addr replace {places.leased(each, where, config.failover.lease)}" for each in where.addresses]
    lines += [f"route replace {route}" for route in places.routes(where)]
    trouble = iproute.batch(lines, "File exists")
    if run.dry_run:
        return
    absent = missing(where)
    if absent or (where.mac and nic.mac(where.interface) != where.mac):
        raise Failed(f"{where.group}: {', '.join(absent) or where.mac} is not on {where.interface}: {trouble or '?'}")
    if trouble:
        log.event("network-incomplete", f"{where.group} on {where.interface}: {trouble}", level="warning")


def drop_group(config: Config, where: Place) -> None:
    """Take the group's addresses away, then everything else that `raise_group` did. Repeating it is harmless.

    Raises:
        Failed: this node may still answer for the group, or its NIC keeps the group's MAC.
    """
    me = config.me()
    drop_addresses(where)
    if _by_ifupdown(me, where):
        from clusterd import ifupdown

        ifupdown.down(me, where.group)
    lines = [f"rule del {rule}" for rule in places.rules(where)]
    if where.link:
        lines.append(f"link del dev {where.interface}")
    else:
        lines += [f"route del {route}" for route in places.routes(where) + _left_routes(where)]
    iproute.batch(lines)
    netsettings.restore(where.group)
    # ifdown leaves the NIC down: it is to be seen whether it has a link, and to have one when it is needed.
    idle = nic.exists(where.interface) and not nic.up(where.interface)
    if not where.link and (idle or (where.mac and nic.mac(where.interface) == where.mac)):
        parking.park(config, me, where.interface)
    if where.interface == me.interface:
        _raise_admin(me)


def drop_addresses(where: Place) -> None:
    """Take the group's addresses away at once, and nothing else: the quickest way to fall silent.

    Raises:
        Failed: one of them is still there.
    """
    on_nic = nic.addresses(where.interface)
    here = [each for each in where.addresses if nic.packed(each) in on_nic]
    if not here:
        return
    trouble = iproute.batch([f"addr del {each} dev {where.interface}" for each in here])
    absent = missing(where)
    if any(each not in absent for each in here) and not run.dry_run:
        raise Failed(f"{where.group}: an address is still on {where.interface}: {trouble or '?'}")


def missing(where: Place) -> list[str]:
    """The group's addresses that the kernel does not have on the NIC. Cheap: no program is started."""
    on_nic = nic.addresses(where.interface)
    return [each for each in where.addresses if nic.packed(each) not in on_nic]


def reachable(interface: str) -> bool:
    """Whether the NIC is there, and has a link, as far as that can be seen before it is up."""
    return nic.exists(interface) and (nic.carrier(interface) or not nic.up(interface))


def announce(where: Place) -> bool:
    """Announce the group's addresses once, those that are really here; whether all of them were.

    A takeover does it at once; the watchdog repeats it over the first seconds, and now and then.
    """
    mac, absent = nic.mac(where.interface), missing(where)
    if run.dry_run or mac is None or (where.mac and mac != where.mac):
        return False
    here = [each for each in where.addresses if each not in absent]
    return arp.announce(where.interface, mac, here) and not absent


def verify(config: Config, where: Place, ask: Iterable[str] = ()) -> str | None:
    """How it is known that the group is reachable here: "10.1.0.254 answered", "kernel only", or None: it is not.

    The hosts of `ask`, else the reference hosts, are asked for their MAC from the group's address and MAC (RFC 826,
    RFC 4861), all at once. An answer has found its way through the switch to this NIC. Waits 0.2 s at most.
    """
    if missing(where) or (where.mac and nic.mac(where.interface) != where.mac):
        return None
    sources = {nic.family(each): each for each in reversed(where.addresses)}
    hosts = [host for host in (ask or config.reference) if nic.family(host) in sources]
    with arp.Socket(where.interface) as sock:
        sent = [sock.ask(host, sources[nic.family(host)]) for host in hosts]
        answered = sock.wait_for(hosts, _ASK_TIMEOUT) if any(sent) else None
    return f"{answered} answered" if answered else "kernel only"


def _refuse_second(config: Config, me: Node, where: Place) -> None:
    """One NIC, one MAC: two groups that bring a MAC cannot share it."""
    for name in config.nodes:
        if name != where.group and where.mac and ownership.known_to_hold(name):
            other = place(config, name, me)
            if other.interface == where.interface:
                raise Failed(
                    f"{where.group}: {where.interface} holds {name} already; method = macvlan has no such limit"
                )


def _prepare_nic(config: Config, me: Node, where: Place) -> None:
    """The NIC with the group's MAC, and the kernel's settings, before any address is there."""
    if where.link and not nic.exists(where.interface):
        about = ["address", where.mac or "", "type", "macvlan", "mode", "bridge"]
        run.check(["ip", "link", "add", "link", where.link, "name", where.interface, *about], timeout=_TIMEOUT)
        netsettings.set_all(netsettings.of(netsettings.NO_LINK_LOCAL, where.interface))
    elif not nic.exists(where.interface):
        raise Failed(f"{where.group}: {where.interface}: no such network interface")
    wanted = netsettings.of(netsettings.KEEP_SECONDARIES, where.interface)
    for interface in (where.interface, me.interface):
        wanted |= netsettings.of(netsettings.ANSWER_ONLY_HERE, interface)
    netsettings.apply(where.group, wanted)
    if _by_ifupdown(me, where):
        from clusterd import ifupdown

        ifupdown.up(config, me, where.group)
    elif where.mac:
        parking.set_mac(where.interface, where.mac)
    parking.bring_up(where.interface)


def _by_ifupdown(me: Node, where: Place) -> bool:
    return me.driver == "ifupdown" and (where.home or where.interface == me.redundant)


def _left_routes(where: Place) -> list[str]:
    """With an IPv6 address that has a lifetime the kernel leaves its LAN's route to expire by itself."""
    metric = _IPV6_METRIC if where.home else places.FOREIGN_METRIC
    rest = [nic.text(each) for each in nic.addresses(where.interface)]
    lans = {nic.network(each): each.partition("/")[2] for each in where.addresses if ":" in each}
    left = [
        lan for lan, size in lans.items() if lan not in {nic.network(f"{each}/{size}") for each in rest if ":" in each}
    ]
    return [f"{lan} dev {where.interface} metric {metric}" for lan in left]


def _raise_admin(me: Node) -> None:
    """The addresses that stay with the machine, and its way out; they outlive every group on the main NIC."""
    if not nic.up(me.interface):
        return
    families = {nic.family(each) for each in me.admin_addresses}
    lines = [f"addr replace {each} dev {me.interface}" for each in me.admin_addresses]
    lines += [
        f"route replace default via {router} dev {me.interface} onlink metric {places.HOME_METRIC}"
        for router in me.gateway
        if nic.family(router) in families
    ]
    on_nic = nic.addresses(me.interface)
    trouble = iproute.batch(lines)
    new = [each for each in me.admin_addresses if nic.packed(each) not in on_nic]
    mac = nic.mac(me.interface)
    if new and mac and not run.dry_run:
        arp.announce(me.interface, mac, new)
    if trouble:
        raise Failed(f"{me.interface}: {trouble}")


def _remove_strays(config: Config, held: Iterable[Place]) -> None:
    """Group addresses on a NIC where they do not belong: after a crash, a change of method, or by the distribution."""
    right = {(where.interface, nic.packed(each)) for where in held for each in where.addresses}
    groups = {nic.packed(each) for group in config.groups() for each in group.addresses}
    lines = []
    for link in json.loads(run.check(["ip", "-json", "addr"], timeout=_TIMEOUT, changes=False)):
        for found in link["addr_info"]:
            packed = nic.packed(found.get("local", "::"))
            if packed in groups and (link["ifname"], packed) not in right:
                lines.append(f"addr del {found['local']}/{found['prefixlen']} dev {link['ifname']}")
    trouble = iproute.batch(lines)
    if trouble:
        raise Failed(trouble)


def _drop(config: Config, name: str, me: Node) -> None:
    drop_group(config, place(config, name, me))


def _attempt(step: Callable[[], None]) -> list[str]:
    try:
        step()
    except Failed as error:
        return [str(error)]
    return []
