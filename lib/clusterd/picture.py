"""The picture that a decision is made from: what a node knows of itself and of each peer.

Times are seconds of one clock that no one sets (CLOCK_BOOTTIME); "since" fields carry the history, so that the
decision itself needs none.
"""

from typing import NamedTuple

PERSON = "person"
PROGRAM = "program"
ACQUIRE = "acquire"
RESUME = "resume"
NOT_FENCED = "not fenced: "
"""How the failure of a takeover begins that could not make sure that a silent peer is off."""
SLACK = 0.015
"""Seconds by which a datagram may be late before questions are asked."""
UNHELD = 3.0
"""Seconds for which nobody must have held a group, with all peers heard, before its last holder takes it again:
longer than a hand-over takes between the one's last word and the other's first."""


class Rules(NamedTuple):
    """The part of the configuration that decides. Seconds."""

    interval: float = 0.1
    isolated_after: float = 0.18
    dead_after: float = 0.3
    hold_down: float = 60.0
    start_alone: str = "home"
    wait_for_peer: float = 120.0
    failback: str = "auto"
    fencing: bool = False
    """There is a fence agent: the takeover fences first, and its success is the proof that the LAN need not give."""
    arbiter: bool = False
    """What is held must be granted by etcd (grant.py)."""
    arbiter_ttl: float = 5.0
    failsafe: bool = False
    lease: float = 2.0
    """Of a held address in the kernel."""
    nodes: tuple[str, ...] = ()
    """All nodes, in the order of cluster.conf."""


class Claim(NamedTuple):
    """What a node says of one group."""

    epoch: int = 0
    holder: str = ""
    """Who has it, or had it last, at that epoch."""
    held: bool = False
    """The speaker answers for it now."""
    pinned: bool = False
    taking: int = 0
    """The epoch with which the speaker is about to take it: decided, not done yet."""


NO_CLAIM = Claim()
"""What a node says of a group of which it says nothing."""


class Own(NamedTuple):
    """What this node knows of one group."""

    home: str
    epoch: int = 0
    holder: str = ""
    held: bool = False
    """The record says that it is ours, in this boot."""
    up: bool = False
    """The addresses are on the NIC and their lease is renewed."""
    unfinished: bool = False
    """A takeover or release of it was cut off here: to be finished or undone."""
    pinned: bool = False
    busy: bool = False
    """A takeover or release of it runs here now."""
    intended: int = 0
    """The epoch of that takeover, from the moment at which it was told to go."""
    intending: int = 0
    """Of more than two nodes: the epoch with which it is to be taken as soon as the peers know that."""
    ordered: str = ""
    """What the watchdog's own takeover is doing: RESUME, ACQUIRE or nothing."""
    unheard: tuple[str, ...] = ()
    """The peers that were silent when it was ordered: with a fence agent it switches them off first."""
    silent_since: float | None = None
    """The LAN has been asked for the address since then, several times, and nobody answered."""
    answered: bool = False
    """Somebody else answered for the address to the latest questions."""
    unheld_since: float | None = None
    """Since when nobody has claimed it, all peers being heard."""
    retry_at: float = 0.0
    """After a takeover of it failed here: no other one before..."""
    move_at: float = 0.0
    """...and after a hand-over failed: no other one before."""
    failed: str = ""
    """Why the last takeover of it here failed."""
    granted_until: float = float("inf")
    """The arbiter's grant of it cannot end before that; 0: there is none."""
    denied_to: str = ""
    """Who has it there while we want it..."""
    denied_since: float = 0.0
    """...and since when."""


class Me(NamedTuple):
    """What this node knows of itself."""

    name: str
    groups: dict[str, Own]
    standby: str = ""
    """"", "person" or "program"."""
    reach: int | None = None
    """How many reference hosts answer; None while that is being asked for the first time."""
    unreached_since: float | None = None
    """None of them has answered since then, though asked several times."""
    started: float = 0.0
    clean: bool = False
    """The last stop was in order, with nothing held."""
    sure: bool = True
    """The claims were heard since the start, or the last pause; until then nothing is renewed."""
    arbiter_lost_since: float | None = None
    """Since when it has not answered; None without an arbiter."""
    arbiter_why: str = ""
    unready: dict[str, str] = {}
    """What is not in order of what this node needs to take a group over: by NIC or file, in words."""


class Peer(NamedTuple):
    """What this node knows of one peer: when it was heard, and what it said last."""

    name: str
    heard: dict[str, float | None]
    """When it was last heard on each path on which it is expected; None: not in this boot."""
    boot: str = ""
    groups: dict[str, Claim] = {}
    standby: str = ""
    reach: int | None = None
    hears_me: bool = False
    deaf_since: float | None = None
    """Since when it has been heard and does not hear this node."""
    mutual_since: float | None = None
    """Since when both have heard each other, without a gap."""
    digest_same: bool = True
    whole_since: float | None = None
    """Since when it has been heard on every expected path, and has reached as many reference hosts as this node."""
    outvoted_since: float | None = None
    """Since when it has reached more reference hosts than this node while a path was silent."""
    arbiter: bool = True
    """The arbiter answers it, or there is none..."""
    arbiter_since: float | None = None
    """...and since when it has been heard to say so."""
    rumoured: float | None = None
    """When a word of it last came that is signed, but may have been recorded before this boot..."""
    rumours: dict[str, Claim] = {}
    """...and what it said..."""
    news: dict[str, int] = {}
    """...and the epochs of the groups that it was the first to tell of: no recording has those."""
    hears: tuple[str, ...] = ()
    """Whom it hears."""
    vouched: bool = False
    """It is not heard here, but by a peer that is (see quorum.py; of a pair's peer never true)."""
    counted: bool = True
    """It counts when it is asked who has the majority."""
    missing: bool = False
    """Never heard in this boot, and the others, more than half of all, have waited long enough for it; or the last of
    them that is left."""

    def last(self) -> float | None:
        """When it was last heard on any path."""
        last = None
        for at in self.heard.values():
            if at is not None and (last is None or at > last):
                last = at
        return last

    def silence(self, now: float) -> float | None:
        """Seconds since it was last heard; None if never in this boot."""
        last = self.last()
        return None if last is None else now - last

    def fresh(self, rules: Rules, now: float) -> bool:
        """Whether what it said last is its present word."""
        last = self.last()
        return last is not None and now - last <= rules.isolated_after

    def deaf(self, rules: Rules, now: float) -> bool:
        """Whether it has been heard for dead_after and has not heard this node in all that time."""
        return self.deaf_since is not None and now - self.deaf_since >= rules.dead_after

    def claim(self, group: str) -> Claim:
        """What it said of the group."""
        return self.groups.get(group, NO_CLAIM)

    def rumour(self, rules: Rules, group: str, now: float) -> Claim:
        """What it says of the group, by a word that may be an old one."""
        if self.rumoured is None or now - self.rumoured > rules.isolated_after:
            return NO_CLAIM
        return self.rumours.get(group, NO_CLAIM)

    def has_it_by_rumour(self, rules: Rules, group: str, now: float) -> bool:
        """Whether it says that it has the group with an epoch of which nobody had told before: that is no old word."""
        claim = self.rumour(rules, group, now)
        return claim.held and claim.epoch == self.news.get(group)

    def dead_paths(self, rules: Rules, now: float) -> list[str]:
        """Paths on which it has not been heard for dead_after."""
        return [path for path, at in self.heard.items() if at is None or now - at > rules.dead_after]


def questions(rules: Rules, me: Me, peers: tuple[Peer, ...], now: float) -> tuple[str, ...]:
    """The groups for whose addresses the LAN is to be asked now: evidence is collected while waiting.

    None while no reference host answers: what the LAN could not carry must not count as silence when it is back.
    """
    if not me.reach:
        return ()
    asked = []
    for name, own in me.groups.items():
        if own.up or (me.standby and not own.held):
            continue
        claimed = [peer for peer in peers if peer.claim(name).held]
        if not any(peer.fresh(rules, now) and not suspicious(rules, peer, now) for peer in claimed):
            asked.append(name)
    return tuple(asked)


def suspicious(rules: Rules, peer: Peer, now: float) -> bool:
    """Whether a datagram of the peer is overdue on every path: time to ask, not yet to act."""
    silence = peer.silence(now)
    return silence is None or silence > rules.interval + SLACK


def note(rules: Rules, me: Me, peer: Peer, now: float) -> Peer:
    """The peer with its "since" fields brought up to date; call before `decide`. Pure."""
    fresh = peer.fresh(rules, now)
    silence = peer.silence(now)
    there = silence is not None and silence <= rules.dead_after  # with words that come rarely it is deaf all the same
    whole = fresh and all(at is not None and now - at <= rules.isolated_after for at in peer.heard.values())
    fewer = me.reach is not None and peer.reach is not None and me.reach < peer.reach
    return peer._replace(
        whole_since=_since(peer.whole_since, whole and _sees(me, peer), now),
        outvoted_since=_since(peer.outvoted_since, fresh and fewer and bool(peer.dead_paths(rules, now)), now),
        deaf_since=_since(peer.deaf_since, there and not peer.hears_me, now),
        mutual_since=_since(peer.mutual_since, fresh and peer.hears_me, now),
        arbiter_since=_since(peer.arbiter_since, fresh and peer.arbiter, now),
    )


def _since(began: float | None, lasts: bool, now: float) -> float | None:
    """When something that lasts began."""
    if not lasts:
        return None
    return now if began is None else began


def unheld(rules: Rules, me: Me, peers: tuple[Peer, ...], name: str, now: float) -> bool:
    """Whether nobody claims the group, every peer being heard; but for those that count no more, while a reference host
    answers. One of them that had it with the latest epoch is dead, which is another rule's.
    """
    silent = [peer for peer in peers if not peer.fresh(rules, now)]
    if me.groups[name].held or any(peer.counted or not me.reach for peer in silent):
        return False
    epoch, _ = latest(me, peers, name)
    had_it = any(peer.claim(name).held and peer.claim(name).epoch == epoch for peer in silent)
    return not had_it and not any(wanted(peer.claim(name)) for peer in peers if peer not in silent)


def wanted(claim: Claim) -> bool:
    """Whether the speaker has the group, or is about to."""
    return claim.held or claim.taking > 0


def latest(me: Me, peers: tuple[Peer, ...], name: str) -> tuple[int, str]:
    """The highest epoch that anybody is known to have given the group, and who held it then."""
    own = me.groups[name]
    claims = [(own.epoch, own.holder)]
    for peer in peers:
        claim = peer.claim(name)
        claims.append((claim.epoch, claim.holder))
    best, _ = max(claims)
    holders = {holder for epoch, holder in claims if epoch == best and holder}
    return best, own.home if own.home in holders else min(holders, default="")


def here_last(rules: Rules, me: Me, name: str, own: Own, peers: tuple[Peer, ...], now: float) -> bool:
    """Whether nobody has had the group for UNHELD, every peer being heard, and it was here last, or is at home here."""
    long = own.unheld_since is not None and now - own.unheld_since >= UNHELD
    return long and belongs(me, own, latest(me, peers, name)[1]) and unheld(rules, me, peers, name, now)


def belongs(me: Me, own: Own, holder: str) -> bool:
    """Whether a group that `holder` had last is this node's to serve again; its own, if nobody ever had it."""
    return holder == me.name or (not holder and own.home == me.name)


def _sees(me: Me, peer: Peer) -> bool:
    """Whether the peer reaches as many reference hosts as we do."""
    return peer.reach is not None and (me.reach is None or peer.reach >= me.reach)


def fit(rules: Rules, me: Me, peer: Peer, now: float) -> bool:
    """Whether the peer can serve as well as we do."""
    return _sees(me, peer) and not peer.dead_paths(rules, now) and peer.hears_me and peer.arbiter


def due(rules: Rules, me: Me, own: Own, peer: Peer, now: float) -> bool:
    """Whether the group should go home to that peer now."""
    stable = peer.whole_since is not None and now - peer.whole_since >= rules.hold_down
    return (
        own.home == peer.name
        and not own.pinned
        and stable
        and peer.standby != PERSON
        and peer.digest_same
        and fit(rules, me, peer, now)
    )
