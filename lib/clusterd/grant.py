"""What the arbiter's grants mean for the decision. Pure, as verdict.py; without an arbiter every answer is yes.

A grant is good until a time before which the lease in etcd cannot have ended. An address that is renewed lives in the
kernel for [failover] lease: so it is renewed only while the grant is good for longer than that. Then it does not
matter what becomes of this process: the kernel has dropped the address before etcd gives the group to anybody else.
"""

from clusterd.picture import Me, Own, Peer, Rules

SLACK = 0.25
"""Seconds by which the kernel may be late in removing an address whose lifetime is over."""
EARLY = 0.25
"""Part of the address's lease before the end of the grant at which the address is dropped, wholly and in order."""


def ending(rules: Rules, me: Me, own: Own, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether a group that we serve must be let go of: etcd has not confirmed it, or has given it to another node."""
    if not (rules.arbiter and own.held and own.up and me.sure):
        return False
    return own.granted_until - now <= EARLY * rules.lease and not failsafe(rules, me, own, peers, now)


def renewable(rules: Rules, me: Me, own: Own, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether the addresses of a group that we serve may live for another lease."""
    return not rules.arbiter or lasting(rules, own, now) or failsafe(rules, me, own, peers, now)


def lasting(rules: Rules, own: Own, now: float) -> bool:
    """Whether the grant outlives an address that is put up now."""
    return own.granted_until - now > rules.lease + SLACK


def enough(rules: Rules, me: Me, own: Own, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether a takeover may be ordered. With a fence agent the takeover itself waits for the grant, after fencing:
    what the node that is then off has in etcd is taken from it, without waiting for the end of its lease. Not so if
    etcd does not answer this node: it would switch off a peer that may be well, and could then take nothing.
    """
    answers = me.arbiter_lost_since is None
    fences = rules.fencing and answers and any(not peer.fresh(rules, now) for peer in peers)
    return not rules.arbiter or fences or lasting(rules, own, now)


def failsafe(rules: Rules, me: Me, own: Own, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether a group that was granted is served on although no endpoint of etcd answers: every peer is heard, and
    hears that it is ours. (As the failsafe mode of Patroni, https://patroni.readthedocs.io/en/latest/dcs_failsafe_mode.html.)
    """
    lost = rules.failsafe and me.arbiter_lost_since is not None and own.granted_until > 0
    return lost and all(peer.fresh(rules, now) and peer.hears_me for peer in peers)


def nearer(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> Peer | None:
    """A peer that reaches the arbiter while this node does not; both for as long as a lease in etcd lasts: when all of
    etcd goes, or comes back, one node sees it before the other.
    """
    if me.arbiter_lost_since is None or now - me.arbiter_lost_since < rules.arbiter_ttl:
        return None
    for peer in peers:
        since = peer.arbiter_since
        if since is not None and now - since >= rules.arbiter_ttl and peer.hears_me and not peer.standby:
            return peer
    return None
