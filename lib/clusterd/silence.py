"""What silence means: of a peer that says nothing, and of an address for which nobody answers. All of it is pure."""

from clusterd.picture import UNHELD, Me, Own, Peer, Rules

RESTART = 1.0
"""Seconds, beyond dead_after, that a silent peer whose address still answers is given before it is fenced: its watchdog
may just be starting again, with another configuration or after an upgrade."""


def dead(rules: Rules, me: Me, peer: Peer, now: float) -> bool:
    """Heard in this boot, silent for dead_after on every path, while reference hosts answer us; nobody hears it."""
    silence = peer.silence(now)
    silent = peer.missing if silence is None else silence > rules.dead_after
    return silent and not peer.vouched and bool(me.reach)


def hung(rules: Rules, peer: Peer, now: float) -> bool:
    """Whether a peer has been silent for longer than its watchdog takes to start again."""
    silence = peer.silence(now)
    return silence is not None and silence > rules.dead_after + RESTART


def unanswered(rules: Rules, own: Own, now: float) -> bool:
    """Whether the LAN was asked for the address, and nobody answered.

    For half of dead_after: that is over when a peer that has just died counts as dead, for it was asked from the
    first missed datagram on. When the questions begin later, a few that were lost are not enough.
    """
    return own.silent_since is not None and now - own.silent_since >= rules.dead_after / 2 and not own.answered


def long_unanswered(own: Own, now: float) -> bool:
    """Whether nobody has answered for so long that a peer, not heard but alive, would have taken the group by now.

    Both ends of a cut see the same silence; only one of them, the one that did not have the group, may act at once.
    """
    return own.silent_since is not None and now - own.silent_since >= UNHELD and not own.answered


def answers_for_another(rules: Rules, me: Me, group: str, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether somebody who is not heard has just answered for another group, while a peer has not been silent for long:
    so that one lives, whether it had that group before or not, and what was asked about this one was lost. Not for
    ever: somebody else may have put up that address. With a fence agent it may answer.
    """
    lately = any(rules.isolated_after < (peer.silence(now) or 0.0) < rules.dead_after + UNHELD for peer in peers)
    if rules.fencing or not lately:
        return False
    heard = [peer for peer in peers if peer.fresh(rules, now)]
    answering = [name for name, own in me.groups.items() if own.answered and not own.up and name != group]
    return any(not any(peer.claim(name).held for peer in heard) for name in answering)
