"""The standby in which a node puts itself, and which it leaves by itself: part of the decision (verdict.py). Pure.

It holds nothing, then, and takes nothing: what it had is served elsewhere, and goes home when the holder says so.
"""

from clusterd.actions import Action, EnterStandby, LeaveStandby
from clusterd.picture import PROGRAM, Me, Peer, Rules, here_last, latest, wanted


def enter(me: Me, heard: list[Peer]) -> list[Action]:
    """A node that holds nothing while a peer holds its home group: back from a crash, standby until let back.

    But not while it is to take again what nobody holds and was here last; nor if a person has moved the group away:
    then it was handed over without loss, and this node must be able to take over.
    """
    claimed = {name for peer in heard for name, claim in peer.groups.items() if wanted(claim)}
    here = any(latest(me, tuple(heard), name)[1] == me.name for name in me.groups.keys() - claimed)
    if me.standby or here:
        return []
    for name, own in me.groups.items():
        for peer in heard:
            claim = peer.claim(name)
            if own.home == me.name and not own.busy and claim.held and not claim.pinned:
                return [EnterStandby(f"{peer.name} holds {name}")]
    return []


def leave(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> list[Action]:
    """A node that has put itself in standby, and so keeps from everybody what it had last: a hand-over to it has failed
    after its first step, say, with a lock that a slow disk had taken only then.
    """
    if me.standby != PROGRAM:
        return []
    for name, own in me.groups.items():
        if not own.busy and here_last(rules, me, name, own, peers, now):
            return [LeaveStandby(f"nobody holds {name}, and it was here last")]
    return []
