"""One look at a peer, from this node: what answers to ping, what the watchdog heard, and what to make of it.

Independent of the watchdog where it can be: fping asks the same hosts with another protocol.
"""

from typing import NamedTuple

from clusterd import durations, run, view
from clusterd.errors import Failed
from clusterd.model import Config, Node

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
"""Nagios plugin return codes."""
NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
WAIT_MS = 300
"""Milliseconds for an answer to a ping; two are sent."""


class Look(NamedTuple):
    """What one look at a peer showed."""

    peer: str
    code: int
    text: str
    paths: dict[str, float | None]
    """Round trip in milliseconds by ping, None: no answer. The LAN only if the peer has an address there."""
    reach: int
    """Reference hosts that answer this node's ping."""
    asked: int
    peer_reach: int | None
    """What the peer said it reaches; None: not known."""
    holders: dict[str, str]
    """Who holds which group; "" for nobody."""
    standby: str
    peer_standby: str
    arbiter: str = ""
    """How the arbiter is, seen from here; "" for the reference hosts alone."""


def look(config: Config, node: Node) -> Look:
    """Look at `node` now; takes about a second if something does not answer."""
    seen = view.read()
    targets = _targets(config, node, seen)
    answers = ping([*targets.values(), *config.reference])
    paths = {path: answers[address] for path, address in targets.items()}
    reach = sum(answers[host] is not None for host in config.reference)
    peer = seen.peers.get(node.name) if seen else None
    holders = {group: seen.holder(group) for group in config.nodes} if seen else {}
    code, text = _verdict(config, node, seen, paths)
    return Look(
        peer=node.name,
        code=code,
        text=text,
        paths=paths,
        reach=reach,
        asked=len(config.reference),
        peer_reach=peer.reach if peer and peer.heard else None,
        holders=holders,
        standby=seen.standby if seen else "",
        peer_standby=peer.standby if peer else "",
        arbiter=str(seen.arbiter.get("text", "")) if seen else "",
    )


def ping(addresses: list[str]) -> dict[str, float | None]:
    """The round trip to each address in milliseconds, None if it does not answer, by fping.

    Raises:
        Failed: fping is not installed.
    """
    unique = list(dict.fromkeys(addresses))
    result = run.run(
        ["fping", "-q", "-C", "2", "-p", str(WAIT_MS), "-t", str(WAIT_MS), *unique], timeout=10, changes=False
    )
    if result.code not in (0, 1):
        raise Failed(result.why())
    found: dict[str, float | None] = dict.fromkeys(unique)
    for line in result.stderr.splitlines():
        address, _, times = line.partition(" : ")
        good = [float(each) for each in times.split() if each != "-"]
        if address.strip() in found and good:
            found[address.strip()] = min(good)
    return found


def _targets(config: Config, node: Node, seen: view.View | None) -> dict[str, str]:
    """The address of the peer on each path on which it should answer."""
    targets = {network.name: network.address.split("/")[0] for network in node.networks}
    peer = seen.peers.get(node.name) if seen else None
    if node.admin_addresses:
        targets["lan"] = node.admin_addresses[0].split("/")[0]
    elif seen and seen.groups[node.name]["held"]:
        return targets  # its address is here: it is this node that would answer
    elif peer is None or peer.groups.get(node.name, {}).get("held"):
        targets["lan"] = node.addresses[0].split("/")[0]
    return targets


def _verdict(config: Config, node: Node, seen: view.View | None, paths: dict[str, float | None]) -> tuple[int, str]:
    """The state of the pair in one word and one clause; the gravest thing that is wrong is what is told."""
    if seen is None:
        return UNKNOWN, "the watchdog is not running here"
    return (
        _critical(config, node, seen, paths)
        or _warning(config, node, seen, paths)
        or (OK, f"{node.name} is heard on every path{_stable(seen.peers[node.name])}")
    )


def _critical(config: Config, node: Node, seen: view.View, paths: dict[str, float | None]) -> tuple[int, str] | None:
    answering = sorted(path for path, milliseconds in paths.items() if milliseconds is not None)
    unheld = [group for group in config.nodes if not seen.holder(group)]
    if not seen.peers[node.name].heard:
        if answering:
            return CRITICAL, f"{node.name} answers on {', '.join(answering)} but its watchdog is not heard"
        return CRITICAL, f"{node.name} is not heard on any path"
    if unheld:
        return CRITICAL, f"nobody holds {', '.join(unheld)}"
    return None


def _warning(config: Config, node: Node, seen: view.View, paths: dict[str, float | None]) -> tuple[int, str] | None:
    peer = seen.peers[node.name]
    dead = {path for path, milliseconds in paths.items() if milliseconds is None}
    dead |= {path for path, age in peer.paths.items() if age is None or age > config.heartbeat.dead_after}
    away = [f"{group} is served by {seen.holder(group)}" for group in config.nodes if seen.holder(group) != group]
    in_standby = [
        f"{name} is in standby, set by {'a person' if cause == 'person' else 'the program'}"
        for name, cause in ((seen.node, seen.standby), (node.name, peer.standby))
        if cause
    ]
    matters = [f"{node.name} does not answer on {', '.join(sorted(dead))}"] if dead else []
    matters += [condition[2] for condition in seen.conditions] + in_standby + away
    return (WARNING, matters[0]) if matters else None


def _stable(peer: view.PeerView) -> str:
    return "" if peer.stable is None else f" for {durations.show(peer.stable)}"
