"""What a person should know of the picture, whatever is done about it."""

from typing import NamedTuple

from clusterd.model import ALL_PATHS
from clusterd.picture import NOT_FENCED, PERSON, UNHELD, Me, Own, Peer, Rules, due, latest
from clusterd.silence import dead

DENIED = 3.0
"""Seconds beyond the lifetime of a lease in etcd: then the holder that we do not hear has renewed it meanwhile."""


class Condition(NamedTuple):
    """Something that a person should know while it lasts; the name is the notice's."""

    name: str
    subject: str
    text: str


SILENT = ("peer-dead", "path-down")
"""Conditions whose subject is a peer that is not heard, or NODE/PATH of a path on which it is not; see ALL_PATHS."""


def conditions(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> list[Condition]:
    """Everything that a person should know, whatever is done about it."""
    found = _arbiter(rules, me, now)
    found += [Condition("not-ready", what, text) for what, text in me.unready.items()]
    for peer in peers:
        silence = peer.silence(now)
        if peer.vouched:
            text = f"{peer.name} is not heard here on any path, but another node hears it"
            found.append(Condition("path-down", f"{peer.name}/{ALL_PATHS}", text))
        elif peer.missing or (silence is not None and silence > rules.dead_after):
            found.append(Condition("peer-dead", peer.name, f"{peer.name} is not heard on any path"))
        elif silence is not None:
            for path in peer.dead_paths(rules, now):
                text = f"{peer.name} is not heard on {path}; reach {me.reach} here, {peer.reach} there"
                found.append(Condition("path-down", f"{peer.name}/{path}", text))
        if peer.fresh(rules, now) and not peer.digest_same:
            found.append(Condition("config-differs", peer.name, f"{peer.name} has another configuration"))
    for name, own in me.groups.items():
        found += _group_conditions(rules, me, name, own, peers, now)
    return found


def _arbiter(rules: Rules, me: Me, now: float) -> list[Condition]:
    """What is the matter with the arbiter: silent, or of another opinion for longer than a dead node's lease lasts."""
    found = []
    if me.arbiter_lost_since is not None:
        text = f"the arbiter, etcd, does not answer {me.name} ({me.arbiter_why}); {_at_stake(rules, me)}"
        found.append(Condition("arbiter-lost", me.name, text))
    for name, own in me.groups.items():
        if own.denied_to and now - own.denied_since > rules.arbiter_ttl + DENIED:
            text = f"{name} should be taken here, but {own.denied_to} has it in etcd, and goes on renewing that"
            found.append(Condition("arbiter-denied", name, text))
    return found


def _at_stake(rules: Rules, me: Me) -> str:
    up = ", ".join(name for name, own in me.groups.items() if own.held and own.up)
    if not up:
        return "nothing can be taken here"
    spared = ", unless every peer is heard" if rules.failsafe else ""
    return f"{up} is let go of when the lease there can have ended, {rules.arbiter_ttl:g} s after its last word{spared}"


def _group_conditions(
    rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float
) -> list[Condition]:
    if own.held:
        home = next((peer for peer in peers if peer.name == own.home and peer.fresh(rules, now)), None)
        if rules.failback == "manual" and own.up and home and due(rules, me, own, home, now):
            return [Condition("failback-waiting", name, f"{home.name} is back and stable: {name} can go home")]
        return _not_served(me, name, own, peers)
    gone = [peer.name for peer in peers if dead(rules, me, peer, now)]
    if gone and own.failed.startswith(NOT_FENCED):
        return [Condition("fence-failed", gone[0], own.failed)]
    if own.answered and gone and not rules.fencing:
        text = f"{', '.join(gone)} is not heard, but somebody still answers for {name}'s address: not taken over"
        return [Condition("takeover-held-back", name, text)]
    alone = all(peer.last() is None for peer in peers) and me.standby != PERSON
    if alone and not own.busy and now - me.started > max(rules.dead_after, rules.wait_for_peer) + UNHELD:
        whose = f"{own.holder} had it last" if own.holder else f"it is at home on {own.home}"
        text = f"no other node was heard since this watchdog started, and {whose}: {name} is not taken"
        return [Condition("waits-for-peer", name, text + "; this node is in standby" * bool(me.standby))]
    waited = own.unheld_since is not None and now - own.unheld_since > 2 * UNHELD
    if waited and not own.busy:
        epoch, holder = latest(me, peers, name)
        last = f"{holder} did last (epoch {epoch})" if holder else "nobody ever did"
        return [Condition("contradiction", name, f"nobody holds {name}; {last}")]
    return []


def _not_served(me: Me, name: str, own: Own, peers: tuple[Peer, ...]) -> list[Condition]:
    """What is ours, and not up although this node is not cut off: it waits for a proof that it is nobody else's."""
    if own.up or own.busy or me.unreached_since is not None:
        return []
    why = "somebody answers for it" if own.answered else "not every peer has said that it has not taken it"
    names = ", ".join(peer.name for peer in peers if not peer.hears_me)
    deaf = f" ({names}: does not hear this node)" if names else ""
    failed = f"; the last try: {own.failed}" if own.failed else ""
    return [Condition("not-served", name, f"{name} is held here, but its addresses are down: {why}{deaf}{failed}")]
