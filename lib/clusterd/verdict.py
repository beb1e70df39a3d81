"""Who holds what: the decision, as one pure function. No I/O, no clock of its own, no memory.

`decide` is given what this node knows of itself (`Me`), of each peer (`Peer`) and the time, and returns actions
and conditions. The same picture always gives the same answer, so that a simulator can ask a hundred thousand times.

The rule above all others: unsure is not dead. Whatever is missing from the evidence, nothing is acquired.
"""

from typing import NamedTuple

from clusterd import grant, mistaken, quorum, standing
from clusterd.actions import (
    Acquire,
    Action,
    Desist,
    Failback,
    HandOver,
    LetGo,
    Resume,
    Suspend,
)
from clusterd.conditions import Condition, conditions
from clusterd.picture import (
    ACQUIRE,
    PERSON,
    RESUME,
    UNHELD,
    Me,
    Own,
    Peer,
    Rules,
    belongs,
    due,
    fit,
    here_last,
    latest,
    wanted,
)
from clusterd.silence import answers_for_another, hung, long_unanswered, unanswered


class Verdict(NamedTuple):
    """What to do, and what is the matter. Nothing in either: all is well."""

    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...]
    asks: dict[str, int] = {}
    """Groups that would be taken, or put up again, if the arbiter granted them; with their epochs."""


def decide(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> Verdict:
    """What this node does now, given all that it knows. Pure."""
    found = conditions(rules, me, peers, now)
    heard = [peer for peer in peers if peer.fresh(rules, now)]
    isolated = _isolated(rules, me, peers, now)
    if isolated:
        found.append(Condition("isolated", me.name, isolated))
    actions: list[Action] = []
    for name, own in me.groups.items():
        if stop := _lost(rules, me, name, own, heard) or _deaf(rules, name, own, peers, now):
            actions.append(stop)
        elif vain := _vain(rules, name, own, peers, now, isolated):
            actions.append(vain)
        elif grant.ending(rules, me, own, peers, now):
            actions.append(Suspend(name, _why_ending(own)))
        elif isolated:
            if own.held and own.up:
                actions.append(Suspend(name, isolated))
        elif not own.busy:
            actions += [each for each in _settled(rules, me, name, own, peers, now) if now >= _not_before(own, each)]
    if not any(own.held for own in me.groups.values()):
        actions += standing.leave(rules, me, peers, now) or standing.enter(me, heard)
    asks = _ungranted(rules, me, actions, peers, now)
    return Verdict(tuple(action for action in actions if action not in asks), tuple(found), _epochs(me, asks))


def _ungranted(
    rules: Rules, me: Me, actions: list[Action], peers: tuple[Peer, ...], now: float
) -> list[Acquire | Resume]:
    """What needs a grant of the arbiter that there is not: it is asked for, and then decided again."""
    needing = [action for action in actions if isinstance(action, Acquire | Resume)]
    return [action for action in needing if not grant.enough(rules, me, me.groups[action.group], peers, now)]


def _epochs(me: Me, asks: list[Acquire | Resume]) -> dict[str, int]:
    return {
        action.group: action.epoch if isinstance(action, Acquire) else me.groups[action.group].epoch for action in asks
    }


def _why_ending(own: Own) -> str:
    return "the arbiter has not confirmed it in time" if own.granted_until else "the arbiter does not grant it"


def _not_before(own: Own, action: Action) -> float:
    """When the action may be tried, after it has failed."""
    return own.move_at if isinstance(action, HandOver | Failback) else own.retry_at


def _settled(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> list[Action]:
    """One group, when this node is not isolated and nothing is under way with it."""
    if own.held:
        if there := grant.nearer(rules, me, peers, now):
            return [HandOver(name, there.name, f"the arbiter is out of reach from {me.name}, not from {there.name}")]
        rule = _keep if own.up and not own.unfinished else _resume
        return rule(rules, me, name, own, peers, now)
    return [] if me.standby else _acquire(rules, me, name, own, peers, now)


def _isolated(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> str:
    """Why this node has to let go of everything; "" if it has not.

    Nobody heard on any path for isolated_after, and no reference host answers: it is this node. So it is if peers are
    heard that do not hear it: nothing that it sends arrives anywhere, and one of them will take its groups. Of more
    than two nodes one that hears fewer than half is it in any case: the others may be alive, and are more.
    """
    balance = quorum.balance(rules, peers, now)
    if balance < 0 and now - me.started > rules.isolated_after:
        return "fewer than half of the nodes that count are heard"
    if me.unreached_since is None:
        return ""
    if balance == 0 or all(not peer.fresh(rules, now) for peer in peers):
        return "no peer is heard and no reference host answers"
    if not any(peer.fresh(rules, now) and peer.hears_me for peer in peers):
        return "no reference host answers, and no peer hears this node"
    return ""


def _lost(rules: Rules, me: Me, name: str, own: Own, heard: list[Peer]) -> LetGo | None:
    """A group that we hold, or are taking, and somebody knows to be another's: the lower epoch lets go.

    With equal epochs the home node keeps what it serves, or is taking as well, unless the other cannot hear that; of
    two that are not at home the first in line does (quorum.precedes).
    """
    mine = max(own.epoch if own.held else 0, own.intended)
    if not mine:
        return None
    for peer in heard:
        claim = peer.claim(name)
        if claim.holder != me.name and claim.epoch > mine:
            return LetGo(name, claim.epoch, claim.holder, f"{claim.holder} holds it with epoch {claim.epoch}")
        first = quorum.precedes(rules, own.home, me.name, peer.name) and peer.hears_me
        if claim.held and claim.epoch == mine and not (first and own.up):
            return LetGo(name, mine, peer.name, f"{peer.name} claims it with the same epoch")
        if claim.taking == own.intended > 0 and not first:
            return LetGo(name, own.intended, peer.name, f"{peer.name} is taking it with the same epoch")
    return None


def _deaf(rules: Rules, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> Suspend | None:
    """A group that we serve and that a peer, which cannot hear that, serves as well or is about to take.

    One that has not heard us since its boot is a rumour; but what was recorded before we had it has a lower epoch.
    """
    if not (own.held and own.up):
        return None
    for peer in peers:
        if _rumoured(rules, name, peer, now) >= own.epoch:
            return Suspend(name, f"{peer.name} may be about to take it, and does not hear us")
    for peer in (peer for peer in peers if peer.fresh(rules, now)):
        claim = peer.claim(name)
        if claim.taking > own.epoch or (claim.taking and not peer.hears_me):
            return Suspend(name, f"{peer.name} is about to take it")
        if claim.held and peer.deaf(rules, now):
            return Suspend(name, f"{peer.name} serves it, and does not hear that it is ours")
    return None


def _rumoured(rules: Rules, name: str, peer: Peer, now: float) -> int:
    """The epoch with which the peer has the group, or is about to take it, by a word that may be an old one; or 0."""
    claim = peer.rumour(rules, name, now)
    return max(claim.taking, claim.epoch if claim.held else 0)


def _vain(rules: Rules, name: str, own: Own, peers: tuple[Peer, ...], now: float, isolated: str) -> Desist | None:
    """A takeover that the watchdog has ordered, that has nothing up yet, and that it would not order now.

    Fencing takes its time, and what it is to switch off may answer until then; what is heard again is not to be
    switched off.
    """
    if not own.ordered or own.up:
        return None
    heard = [peer for peer in peers if peer.fresh(rules, now)]
    victims = own.unheard if rules.fencing and own.ordered == ACQUIRE else ()
    if isolated or (own.answered and not victims):
        return Desist(name, "this node is isolated" if isolated else "somebody else answers for it")
    for peer in heard:
        if peer.name in victims:
            return Desist(name, f"{peer.name} is heard again: it is not to be fenced")
    if own.ordered == RESUME:
        if len(heard) < len(peers) or not all(peer.hears_me for peer in heard):
            return Desist(name, "not every peer is heard, and hears that it is coming back")
        if any(peer.claim(name).taking > own.epoch for peer in heard):
            return Desist(name, "a peer is about to take it")
    elif any(0 < own.intended <= _rumoured(rules, name, peer, now) for peer in peers):
        return Desist(name, "a peer that does not hear this node is about to take it")
    return None


def _keep(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> list[Action]:
    """A group that we serve: hand it over if the peer sees more of the network, or send it home."""
    if not me.standby and mistaken.tied(rules, me, name, own, peers, now):
        return [Acquire(name, latest(me, peers, name)[0] + 1, "another node takes its epoch for an old one")]
    for peer in peers:
        if not peer.fresh(rules, now) or peer.standby == PERSON or not peer.arbiter:
            continue
        if _outvoted(rules, me, peer, now) and not peer.standby:
            why = f"{me.name} reaches {me.reach} reference hosts, {peer.name} {peer.reach}"
            return [HandOver(name, peer.name, why)]
        if me.standby and fit(rules, me, peer, now) and not peer.standby:
            return [HandOver(name, peer.name, f"{me.name} is in standby")]
        if rules.failback == "auto" and due(rules, me, own, peer, now):
            return [Failback(name, peer.name)]
    return []


def _outvoted(rules: Rules, me: Me, peer: Peer, now: float) -> bool:
    """Whether the peer has reached more of the network for long enough.

    That is longer when this node reached nothing before: a switch that is back brings up its ports one by one.
    """
    since, dark = peer.outvoted_since, me.unreached_since
    if since is None:
        return False
    long_dark = dark is not None and since - dark > 2 * rules.dead_after
    return now - since >= (UNHELD if long_dark else rules.dead_after)


def _resume(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> list[Action]:
    """A group of ours that is not served: after isolation, a lapsed lease, a cut takeover. Claims first (_lost).

    One that was cut with its addresses up answers for them now: finishing it changes nothing for anybody else.
    """
    if own.up:
        return [Resume(name, "a script that was at work on it was cut")]
    heard = [peer for peer in peers if peer.fresh(rules, now)]
    if any(wanted(peer.claim(name)) for peer in heard) or not all(peer.hears_me for peer in heard):
        return []
    if len(heard) == len(peers):
        # One word that came through is not enough: the peer may take it for lost in the next moment.
        long = all(peer.mutual_since is not None and now - peer.mutual_since >= rules.dead_after for peer in peers)
        return [Resume(name, "heard again, and nobody took it")] if long and not own.answered else []
    rumour = any(_rumoured(rules, name, peer, now) >= own.epoch for peer in peers)
    unknown = bool(me.reach) and all(peer.last() is None for peer in peers)  # it has started alone, or by hand
    if (unknown or quorum.gone(rules, me, peers, now)) and long_unanswered(own, now) and not rumour:
        return [Acquire(name, latest(me, peers, name)[0] + 1, "nobody else answers for it")]
    return []


def _acquire(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> list[Action]:
    """A group that is not ours."""
    heard = [peer for peer in peers if peer.fresh(rules, now)]
    # An old word cannot say that somebody takes it with a new epoch: the epochs in it have been learnt.
    rumoured = any(peer.rumour(rules, name, now).taking > own.epoch for peer in peers)
    rumoured = rumoured or any(peer.has_it_by_rumour(rules, name, now) for peer in peers)
    if rumoured or any(quorum.yields(rules, me, name, own, peer) for peer in heard):
        return []
    epoch, holder = latest(me, peers, name)
    silent = unanswered(rules, own, now)
    gone = [] if answers_for_another(rules, me, name, peers, now) else quorum.gone(rules, me, peers, now)
    if not (silent or (rules.fencing and all(hung(rules, peer, now) for peer in gone))):
        return []
    if gone and holder not in [peer.name for peer in heard]:
        for peer in gone:
            if peer.claim(name).held or holder == peer.name:
                before = now - quorum.patience(rules, me, name, peers, now)
                turn = quorum.gone(rules, me, peers, before) and (rules.fencing or unanswered(rules, own, before))
                return [Acquire(name, epoch + 1, f"{peer.name} is dead")] if turn else []
        if belongs(me, own, holder) and long_unanswered(own, now):
            return [Acquire(name, epoch + 1, "nobody holds it")]
    if silent and here_last(rules, me, name, own, peers, now):
        return [Acquire(name, epoch + 1, "nobody holds it, and it was here last")]
    if silent and mistaken.forgotten(rules, me, name, own, (epoch, holder), peers, now):
        return [Acquire(name, epoch + 1, f"{holder} had it last, and does not take it again")]
    if silent and _may_start_alone(rules, me, own, holder, peers, now):
        return [Acquire(name, epoch + 1, "no peer has been heard since the start")]
    return []


def _may_start_alone(rules: Rules, me: Me, own: Own, holder: str, peers: tuple[Peer, ...], now: float) -> bool:
    """After a boot without a word from anybody."""
    if any(peer.last() is not None for peer in peers) or not me.reach:
        return False
    wait = rules.dead_after if me.clean else max(rules.dead_after, rules.wait_for_peer)
    if now - me.started < wait:
        return False
    sure = holder in ("", me.name)
    if rules.start_alone != "never" and own.home == me.name and sure:
        return True
    if now - me.started < wait + UNHELD:
        return False  # its home node, back as well at this very moment, comes first
    # A word that may be old is no proof that a peer is there, nor that it is not.
    rumour = any(peer.rumoured is not None and now - peer.rumoured < wait for peer in peers)
    return rules.start_alone == "any" and not rumour
