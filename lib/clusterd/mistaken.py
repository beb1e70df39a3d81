"""A peer whose record of a group is wrong, or gone: what would stay so for ever. All of it is pure."""

from clusterd import quorum
from clusterd.picture import PERSON, UNHELD, Me, Own, Peer, Rules, unheld


def tied(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether a peer that lets us serve it would take no pass from us: it believes that our epoch was another's, or
    that we have a higher one. A record is on the disk before a peer hears of it: that one is a mistake (of another
    group's epoch, while the nodes had different configurations), or our disk has lost it.
    """
    claims = [peer.claim(name) for peer in peers if peer.fresh(rules, now)]
    return any(
        not claim.held
        and (
            (claim.epoch == own.epoch and claim.holder not in ("", me.name))
            or (claim.epoch > own.epoch and claim.holder == me.name)
        )
        for claim in claims
    )


def forgotten(
    rules: Rules, me: Me, name: str, own: Own, last: tuple[int, str], peers: tuple[Peer, ...], now: float
) -> bool:
    """Whether nobody holds it, all being heard, as its last holder does not know of it: its record is damaged. Or it
    may not take it: a person has put it in standby, and the hand-over of the group failed in the middle.

    Whoever has a record learns a higher epoch at once. Of several that know, the next one after its home takes it.
    """
    epoch, holder = last
    long = own.unheld_since is not None and now - own.unheld_since >= 2 * UNHELD
    if not long or not unheld(rules, me, peers, name, now):
        return False
    ignorant = [peer.name for peer in peers if peer.claim(name).epoch < epoch or peer.standby == PERSON]
    able = [peer.name for peer in peers if peer.fresh(rules, now) and peer.name not in ignorant and not peer.standby]
    return holder in ignorant and not any(quorum.precedes(rules, name, other, me.name) for other in able)
