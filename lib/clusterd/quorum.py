"""More than two nodes: who counts, who is in the majority, and whose turn it is. All of it is pure.

With a single peer nothing here ever says anything: a pair has no majority, its reference hosts decide.
"""

from clusterd.picture import UNHELD, Me, Own, Peer, Rules, wanted
from clusterd.silence import dead


def assess(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> tuple[Peer, ...]:
    """The peers, with what can be said of each only by looking at all; call after `picture.note`."""
    if len(peers) == 1:
        return peers
    seen = tuple(peer._replace(vouched=_vouched(rules, peer, peers, now)) for peer in peers)
    return tuple(_count(rules, me, peer, seen, now) for peer in seen)


def _vouched(rules: Rules, peer: Peer, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether somebody whom we hear hears the peer, which we do not: it is not dead, whatever we see of it."""
    heard = (other for other in peers if other.fresh(rules, now))
    return not peer.fresh(rules, now) and any(peer.name in other.hears for other in heard)


def _count(rules: Rules, me: Me, peer: Peer, peers: tuple[Peer, ...], now: float) -> Peer:
    """The peer, with whether it still counts, and whether it is missing since before our start.

    It counts until those who are left, being more than half, have waited long enough: so the next one that goes
    leaves a majority again, of fewer. Who is alone may do so much later, and only if it may start alone as well.
    """
    if peer.fresh(rules, now) or peer.vouched:
        return peer._replace(counted=True, missing=False)
    silence = peer.silence(now)
    waited = now - me.started if silence is None else silence
    if balance(rules, peers, now) > 0:
        several = any(other.fresh(rules, now) for other in peers)
        long = waited >= (UNHELD if silence is not None else max(rules.dead_after, rules.wait_for_peer))
        missing = peer.missing or (silence is None and several and long)
        return peer._replace(counted=peer.counted and not long, missing=missing)
    alone = rules.start_alone != "never" and bool(me.reach)
    short = silence is None and me.clean
    long = waited >= (rules.dead_after if short else max(rules.dead_after, rules.wait_for_peer))
    counted = peer.counted and not (alone and long)
    survivor = silence is None and not counted and any(other.last() is not None for other in peers)
    return peer._replace(counted=counted, missing=peer.missing or survivor)


def balance(rules: Rules, peers: tuple[Peer, ...], now: float) -> int:
    """Above 0: those who are heard and this node are more than half of all that count; 0: just half; below: fewer."""
    heard = [peer for peer in peers if peer.fresh(rules, now)]
    count = [peer for peer in peers if peer.counted or peer.fresh(rules, now)]
    return 2 * (1 + len(heard)) - (1 + len(count))


def precedes(rules: Rules, group: str, one: str, other: str) -> bool:
    """Whether the group is rather the one node's than the other's: its home's, then the next one's in cluster.conf."""
    return _distance(rules, group, one) < _distance(rules, group, other)


def _distance(rules: Rules, group: str, node: str) -> tuple[int, str]:
    """How far the node is from the group's home, counted onwards in the order of cluster.conf, and round its end."""
    if group not in rules.nodes or node not in rules.nodes:
        return int(node != group), node
    return (rules.nodes.index(node) - rules.nodes.index(group)) % len(rules.nodes), node


def gone(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> list[Peer]:
    """The peers that are not heard, if every one of them is dead, as far as can be seen from here; else none."""
    unheard = [peer for peer in peers if not peer.fresh(rules, now)]
    return unheard if all(dead(rules, me, peer, now) for peer in unheard) else []


def yields(rules: Rules, me: Me, group: str, own: Own, peer: Peer) -> bool:
    """Whether a group that a peer has, or is about to take, is left to it.

    Of two that only intend to take it, and know that of each other, the first in line goes on.
    """
    claim = peer.claim(group)
    if own.intending and not claim.held and peer.hears_me and precedes(rules, group, me.name, peer.name):
        return False
    return wanted(claim)


def patience(rules: Rules, me: Me, group: str, peers: tuple[Peer, ...], now: float) -> float:
    """Seconds by which this node lets others go before it when a dead one's group is to be taken; 0: its turn.

    Who has the fewest groups takes it; of several with as many, the next one after its home. Whoever comes later sees
    the same, and waits so much longer for each before it that it would have heard of that one's takeover. A peer that
    cannot take it (in standby, without a reference host, deaf to us) is left out.
    """
    mine = sum(own.held or max(own.intended, own.intending) > 0 for own in me.groups.values())
    ahead = 0
    for peer in peers:
        if peer.fresh(rules, now) and peer.hears_me and not peer.standby and peer.reach:
            theirs = sum(wanted(peer.claim(name)) for name in me.groups)
            ahead += theirs < mine or (theirs == mine and precedes(rules, group, peer.name, me.name))
    return ahead * rules.dead_after
