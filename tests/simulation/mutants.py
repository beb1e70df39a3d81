"""The rules, weakened one at a time: the simulation must find out about each of them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from clusterd import (
    acquire,
    arbiter,
    conditions,
    endpass,
    evidence,
    fence,
    grant,
    guards,
    handover,
    mistaken,
    ownership,
    passes,
    peers,
    picture,
    quorum,
    silence,
    standing,
    verdict,
    watch,
)
from clusterd.actions import HandOver, Resume
from clusterd.model import Config, Group, Node, Service
from clusterd.ownership import Record
from clusterd.picture import Me, Own, Peer, Rules, fit
from clusterd.setback import Moment
from simulation import devices, present
from simulation.world import ADDRESSES


class Mutant(NamedTuple):
    """What is replaced by what."""

    name: str
    replaced: tuple[tuple[object, str, object], ...]
    faults: tuple[str, ...] = ()
    """That show it soon; empty: all."""
    together: bool = False
    """All of them at about the same time, or it would take many days to find out."""
    etcd: bool = False
    """In a cluster with an arbiter."""
    fenced: bool = False
    """With a fence agent."""
    nodes: int = 2
    first: int = 0
    """The seed to begin with: one soon after it shows it, of a rule that is rarely needed."""
    rows: tuple[str, ...] = ()
    """How the lines begin that it breaks, of the table in docs/design.md."""


def _silence_of(overdue: Callable[[Rules], float], *, reach: bool = True) -> Callable[..., bool]:
    def dead(rules: Rules, me: Me, peer: Peer, now: float) -> bool:
        silence = peer.silence(now)
        return silence is not None and silence > overdue(rules) and (bool(me.reach) or not reach)

    return dead


def _lost_by_epoch_only(rules: Rules, me: Me, name: str, own: Own, heard: list[Peer]) -> Any:
    found = _LOST(rules, me, name, own, heard)
    return found if found and found.epoch > own.epoch else None


def _resume_at_once(_rules: Rules, _me: Me, name: str, *_: object) -> list[Any]:
    return [Resume(name, "it was ours")]


def _ask_without_reach(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> tuple[str, ...]:
    return _QUESTIONS(rules, me._replace(reach=1), peers, now)


def _ask_hosts_only(self: devices.Socket, target: str) -> bool:
    return target in ADDRESSES or _PROBE(self, target)


def _anybodys(service: Service, **_: Any) -> int:
    return ownership.read(service.home).epoch


def _hand_over_for_nothing(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> list[Any]:
    found = _KEEP(rules, me, name, own, peers, now)
    idle = not found and own.home == me.name and now > _LATE and fit(rules, me, peers[0], now)
    return [HandOver(name, peers[0].name, "for nothing")] if idle and not peers[0].standby else found


def _silent_soon(_rules: Rules, own: Own, _now: float) -> bool:
    return own.silent_since is not None and not own.answered


def _without_standby(rules: Rules, me: Me, *rest: Any) -> Any:
    return _DECIDE(rules, me._replace(standby=""), *rest)


def _same_epoch(me: Me, peers: tuple[Peer, ...], name: str) -> tuple[int, str]:
    epoch, holder = _LATEST(me, peers, name)
    return epoch - 1, holder


def _without_last_pass(*words: Any, last: bool) -> Any:
    return [] if last else _COPY(*words, last=last)


def _hand_over_to_an_equal(rules: Rules, _me: Me, peer: Peer, now: float) -> bool:
    return bool(peer.dead_paths(rules, now))


def _due_at_once(rules: Rules, *rest: Any) -> bool:
    return _DUE(rules._replace(hold_down=0.0), *rest)


def _alone_at_once(rules: Rules, me: Me, *rest: Any) -> bool:
    return _ALONE_MAY(rules, me._replace(started=float("-inf")), *rest)


def _alone_with_all(rules: Rules, *rest: Any) -> bool:
    return _ALONE_MAY(rules._replace(start_alone="any"), *rest)


def _resume_only_what_is_down(rules: Rules, me: Me, name: str, own: Own, *rest: Any) -> list[Any]:
    return [] if own.up else _RESUME(rules, me, name, own, *rest)


def _resume_only_beside_who_was_heard(
    rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float
) -> list[Any]:
    unknown = not own.up and all(peer.last() is None for peer in peers)
    return [] if unknown else _RESUME(rules, me, name, own, peers, now)


def _missing_for_a_majority_only(rules: Rules, me: Me, peer: Peer, peers: tuple[Peer, ...], now: float) -> Peer:
    found = _COUNT(rules, me, peer, peers, now)
    return found if quorum.balance(rules, peers, now) > 0 else found._replace(missing=peer.missing)


def _without_patience(rules: Rules, me: Me, *rest: Any) -> Any:
    groups = {name: own._replace(retry_at=0.0, move_at=0.0) for name, own in me.groups.items()}
    return _DECIDE(rules, me._replace(groups=groups), *rest)


def _revive(self: devices.Keeper, places: Any) -> None:
    for where in places:
        self.machine.kernel[where.group] = present.world.clock.now + self.seconds


def _off_without_proof(config: Config, node: Node) -> None:
    fence.act(config, node, "off")


def _take_back(config: Config, group: Group, _node: object, record: Record, *_: object) -> None:
    acquire.take(config, group, record.epoch + 1)
    acquire.serve(config, group, record.epoch + 1)


def _isolated_like_a_pair(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> str:
    silent = all(not peer.fresh(rules, now) for peer in peers)
    return "nobody is heard" if silent and me.unreached_since is not None else ""


def _start_alone_anyhow(rules: Rules, *rest: Any) -> Peer:
    return _COUNT(rules._replace(start_alone="any"), *rest)


def _sent_to_anybody(self: passes.Record, _node: str) -> Moment | None:
    sent = self.last_sent()
    return _ALONE(self, sent.node if sent else "")


_LATE = 6.0
_PROBE, _KEEP = devices.Socket.probe, verdict._keep
_COUNT, _ALONE = quorum._count, passes.Record.alone_since
_DUE, _ALONE_MAY, _RESUME = picture.due, verdict._may_start_alone, verdict._resume
_LOST, _QUESTIONS, _DECIDE = verdict._lost, picture.questions, verdict.decide
_LATEST, _COPY = picture.latest, handover.copy

_IN_VAIN = (verdict, "_vain", lambda *_: None)
"""Goes on with what it would not begin any more: this rule alone would hide that the one before is missing."""

MUTANTS = (
    Mutant(
        "takes what answers on the LAN",
        ((verdict, "unanswered", lambda *_: True), _IN_VAIN),
        rows=("somebody on the LAN answers",),
    ),
    Mutant(
        "does not ask the LAN for an address",
        ((devices.Socket, "probe", _ask_hosts_only), _IN_VAIN),
        ("freeze",),
    ),
    Mutant(
        "mirrors what it does not hold, and takes that",
        ((guards, "check_holder", _anybodys), (guards, "admit_sender", lambda *_: None)),
        ("power", "power of both"),
    ),
    Mutant("hands over what it serves, for nothing", ((verdict, "_keep", _hand_over_for_nothing),)),
    Mutant(
        "takes after one missed datagram",
        ((quorum, "dead", _silence_of(lambda rules: rules.interval)), _IN_VAIN),
        ("all cables pulled", "heartbeat cut", "LAN cable pulled"),
        rows=("every peer that is not heard is dead, and one of them held it",),
    ),
    Mutant(
        "takes without a reference host",
        (
            (quorum, "dead", _silence_of(lambda rules: rules.dead_after, reach=False)),
            (picture, "questions", _ask_without_reach),
            (verdict, "_isolated", lambda *_: ""),
        ),
        ("all cables pulled", "all hosts off", "heartbeat cut"),
    ),
    Mutant(
        "counts as silence what the LAN did not carry",
        ((picture, "questions", _ask_without_reach), (verdict, "unanswered", _silent_soon), _IN_VAIN),
        ("LAN cable pulled", "heartbeat cut", "switch off", "all cables pulled"),
    ),
    Mutant(
        "keeps from everybody what it had last",
        ((standing, "leave", lambda *_: []),),
        ("all cables pulled", "heartbeat cut", "slow disk", "starve"),
        True,
        first=1300,
    ),
    Mutant(
        "both ends of a cut take at once",
        ((verdict, "long_unanswered", lambda own, now: silence.unanswered(Rules(), own, now)), _IN_VAIN),
        ("all hosts off", "heartbeat cut", "switch off"),
        True,
        rows=("as before, but every peer that is not heard is dead",),
    ),
    Mutant(
        "is isolated and serves on",
        ((verdict, "_isolated", lambda *_: ""),),
        ("all cables pulled", "LAN and heartbeat split"),
        rows=("I am isolated",),
    ),
    Mutant(
        "holds on against a higher epoch",
        ((verdict, "_lost", lambda *_: None),),
        ("LAN and heartbeat split", "power"),
        rows=("I hold it or am taking it",),
    ),
    Mutant(
        "holds on against an equal epoch",
        ((verdict, "_lost", _lost_by_epoch_only),),
        ("power of both", "heartbeat cut one way", "operator: takeover", "loss", "one way everywhere"),
        first=2785,
        rows=("I hold it or am taking it",),
    ),
    Mutant(
        "resumes without looking at the claims",
        ((verdict, "_resume", _resume_at_once),),
        first=450,
        rows=("it is mine but not up",),
    ),
    Mutant(
        "knows nothing of takeovers that are coming",
        (
            *((module, "wanted", lambda claim: claim.held) for module in (verdict, quorum)),
            (verdict, "_deaf", lambda *_: None),
        ),
        ("one way everywhere",),
        rows=("a peer that is heard has it",),
    ),
    Mutant(
        "serves beside a peer that is deaf",
        ((verdict, "_deaf", lambda *_: None),),
        ("one way everywhere", "loss"),
        rows=("I serve it, and a peer that did not hear me",),
    ),
    Mutant(
        "waits for nobody who was here last",
        ((verdict, "UNHELD", 0.0), (picture, "UNHELD", 0.0), _IN_VAIN),
        ("operator: release", "starve", "loss"),
        True,
        rows=(
            "as before, but it was here last",
            "every peer is heard, nobody has claimed it",
        ),
    ),
    Mutant(
        "acquires in standby",
        ((verdict, "decide", _without_standby), (evidence, "check_standby", lambda: None)),
        ("operator: standby", "power"),
        rows=("I am in standby",),
    ),
    Mutant("takes with the epoch that was", ((verdict, "latest", _same_epoch),), ("power", "LAN and heartbeat split")),
    Mutant(
        "goes on after a pause as if nothing had been",
        ((devices.Keeper, "renew", _revive), (watch.Watch, "_paused", lambda *_: None)),
        ("freeze", "heartbeat cut"),
        True,
    ),
    Mutant("believes the fence agent", ((fence, "_off", _off_without_proof),), ("LAN and heartbeat split",)),
    Mutant(
        "takes back without asking",
        ((handover, "_take_back", _take_back),),
        ("operator: release", "heartbeat cut", "nodes kept apart on the LAN"),
        True,
        first=185,
    ),
    Mutant("hands over without the last pass", ((handover, "copy", _without_last_pass),), ("operator: release",)),
    Mutant("lets any pass in", ((guards, "admit_sender", lambda *_: None),), ("freeze", "LAN and heartbeat split")),
    Mutant(
        "takes what etcd has not granted",
        ((grant, "lasting", lambda *_: True), (arbiter, "_granted", lambda *_: True)),
        ("LAN and heartbeat split",),
        etcd=True,
    ),
    Mutant(
        "serves beyond the end of its lease in etcd",
        ((grant, "ending", lambda *_: False), (grant, "renewable", lambda *_: True)),
        ("LAN and heartbeat split",),
        etcd=True,
        rows=("I serve it, and the arbiter",),
        first=180,
    ),
    Mutant("forgets that it was the holder", ((passes, "hold", lambda *_: None),), ("power",)),
    Mutant(
        "goes by file times although the clock was set back",
        ((Moment, "earliest", lambda moment: moment.at),),
        ("clock jumps", "power"),
        True,
    ),
    Mutant(
        "goes on receiving while it serves",
        ((endpass, "cut_off", lambda _services: None), (endpass, "settle", lambda _service: None)),
        ("freeze",),
    ),
    Mutant(
        "gives up what the disk did not take",
        ((devices.Worker, "must", lambda self, _what, job: self.do(job)),),
        ("disk full", "LAN and heartbeat split"),
        together=True,
    ),
    Mutant(
        "keeps what the peer would serve better",
        ((verdict, "_outvoted", lambda *_: False),),
        ("LAN cable pulled",),
        rows=("I serve it; some path to a peer is dead",),
    ),
    Mutant(
        "hands over to a peer that reaches no more",
        ((verdict, "_outvoted", _hand_over_to_an_equal),),
        ("heartbeat cut",),
        rows=("I serve it; some path to a peer is dead",),
    ),
    Mutant(
        "carries on and tells nobody",
        ((verdict, "conditions", lambda *_: []),),
        ("heartbeat cut",),
    ),
    Mutant(
        "raises no alarm when nobody is to have a group",
        ((conditions, "UNHELD", float("inf")),),
        ("operator: standby", "power"),
    ),
    Mutant(
        "sends home at once", ((verdict, "due", _due_at_once),), ("power",), rows=("I serve it, its home is a peer",)
    ),
    Mutant(
        "does not leave although it is in standby",
        ((verdict, "fit", lambda *_: False),),
        ("operator: standby",),
        rows=("I serve it, I am in standby",),
    ),
    Mutant(
        "starts alone at once",
        ((verdict, "_may_start_alone", _alone_at_once),),
        ("power of both",),
        rows=("since this watchdog started",),
    ),
    Mutant(
        "starts alone with what it must not",
        ((verdict, "_may_start_alone", _alone_with_all),),
        ("power of both",),
        rows=("since this watchdog started",),
    ),
    Mutant("returns without standby", ((standing, "enter", lambda *_: []),), ("power",)),
    Mutant(
        "believes no rumour",
        ((verdict, "_rumoured", lambda *_: 0),),
        ("one way everywhere", "power"),
        True,
        first=70,
        rows=("I serve it, and a peer that did not hear me",),
    ),
    Mutant(
        "serves on with an epoch that was another's",
        ((mistaken, "tied", lambda *_: False),),
        ("power of both", "heartbeat cut one way", "operator: takeover", "loss", "one way everywhere", "kill script"),
        first=3875,
        rows=("I serve it, and a peer that lets me",),
    ),
    Mutant(
        "leaves to its last holder what that has forgotten",
        ((mistaken, "forgotten", lambda *_: False),),
        ("record damaged",),
        rows=("its last holder knows a lower epoch",),
    ),
    Mutant(
        "goes on with what it would not begin any more",
        (_IN_VAIN,),
        ("LAN and heartbeat split",),
        fenced=True,
        rows=("a takeover that I ordered",),
    ),
    Mutant(
        "does not finish what was cut",
        ((verdict, "_resume", _resume_only_what_is_down),),
        ("operator: release", "kill script"),
        True,
        rows=("it is mine and up",),
    ),
    Mutant(
        "tries again at once",
        ((verdict, "decide", _without_patience),),
        ("power", "nodes kept apart on the LAN", "freeze"),
        rows=("a script of ours is at work on it",),
    ),
    Mutant(
        "stays where etcd does not answer",
        ((grant, "nearer", lambda *_: None),),
        ("host off",),
        etcd=True,
        first=270,
        rows=("it is mine, the arbiter has not answered me",),
    ),
    Mutant(
        "three: takes what it cannot hear and another can",
        ((quorum, "_vouched", lambda *_: False),),
        ("apart everywhere", "heartbeat cut", "nodes kept apart on the LAN"),
        nodes=3,
    ),
    Mutant(
        "three: serves on beside a majority",
        ((verdict, "_isolated", _isolated_like_a_pair),),
        ("LAN and heartbeat split",),
        nodes=3,
    ),
    Mutant(
        "three: counts nobody who is silent",
        ((quorum, "UNHELD", 0.0),),
        ("LAN and heartbeat split", "loss"),
        nodes=3,
        first=310,
    ),
    Mutant(
        "three: starts alone although it never may",
        ((quorum, "_count", _start_alone_anyhow),),
        ("LAN and heartbeat split",),
        nodes=3,
    ),
    Mutant(
        "leaves down what it has started alone",
        ((verdict, "_resume", _resume_only_beside_who_was_heard),),
    ),
    Mutant(
        "three: the last one left waits for who was never heard",
        ((quorum, "_count", _missing_for_a_majority_only),),
        nodes=3,
    ),
    Mutant(
        "three: takes before the others know it",
        ((peers.Peers, "agree", lambda *_: True), (quorum, "patience", lambda *_: 0.0)),
        ("power", "loss", "starve"),
        True,
        nodes=3,
        first=60,
    ),
    Mutant(
        "three: nobody yields to an equal epoch",
        ((quorum, "precedes", lambda *_: True),),
        ("power", "operator: takeover", "loss", "heartbeat cut"),
        True,
        nodes=3,
    ),
    Mutant(
        "three: counts as mirrored what went to somebody else",
        ((passes.Record, "alone_since", _sent_to_anybody),),
        ("power", "kill script", "heartbeat cut"),
        nodes=3,
    ),
)


def named(name: str) -> Mutant:
    """The mutant of that name; "": one with nothing weakened."""
    return next((mutant for mutant in MUTANTS if mutant.name == name), Mutant("", ()))


@contextlib.contextmanager
def weakened(name: str) -> Iterator[None]:
    """While this lasts, the program has that fault; "": none."""
    with contextlib.ExitStack() as stack:
        for where, attribute, new in named(name).replaced:
            stack.enter_context(mock.patch.object(where, attribute, new))
        yield
