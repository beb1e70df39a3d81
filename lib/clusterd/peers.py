"""What has been heard of the peers: the watchdog's memory, from which the picture for the decision is made."""

import time
from collections.abc import Callable

from clusterd import fence, model, picture, quorum, reach, view
from clusterd.heartbeat import Path
from clusterd.picture import NO_CLAIM, Claim, Me, Peer, Rules
from clusterd.word import Word

LAN = "lan"


class Peers:
    """Keeps, of each peer, when it was heard on which path, and its last word."""

    def __init__(self, config: model.Config) -> None:
        self.config = config
        self.me = config.me()
        self.nearby = [network.name for network in self.me.networks]
        self.peers = {peer.name: Peer(peer.name, dict.fromkeys(self.nearby, None)) for peer in config.peers()}
        self.words: dict[str, Word] = {}
        self.skews: dict[str, float] = {}
        self.answered: dict[str, float] = {}
        """Of more than two nodes: when each peer has last named a later word of ours than before."""

    def remember(self, old: view.View) -> None:
        """Go on from the view that an earlier loop of this boot has left; see also `excuse`."""
        for seen in old.peers.values():
            peer = self.peers.get(seen.name)
            if peer is None:
                continue
            heard = {
                path: None if age is None else old.written - age
                for path, age in seen.paths.items()
                if path in (*self.nearby, LAN)
            }
            groups = {
                name: Claim(claim["epoch"], claim["holder"], claim["held"], claim["pinned"])
                for name, claim in seen.groups.items()
            }
            self.peers[seen.name] = peer._replace(
                heard={**peer.heard, **heard},
                groups=groups,
                standby=seen.standby,
                reach=seen.reach,
                counted=seen.counted,
            )

    def excuse(self, rules: Rules, then: float, now: float) -> None:
        """Nobody was listening from `then` to `now`: who was heard until then counts as heard until now."""
        for name, peer in self.peers.items():
            if peer.fresh(rules, then):
                heard = {path: at if at is None else max(at, now) for path, at in peer.heard.items()}
                self.peers[name] = peer._replace(heard=heard, whole_since=None, hears_me=False)

    def hear(self, word: Word, path: str, now: float) -> bool:
        """Take in a word; whether it says anything new, or comes from a peer that was overdue."""
        me = self.me.name
        peer = self.peers[word.node]
        known = self.words.get(word.node)
        if known and (word.incarnation, word.sequence) < (known.incarnation, known.sequence):
            # It was overtaken on another path: a sign of life, but no longer that node's present word.
            self.peers[word.node] = peer._replace(heard={**peer.heard, path: now})
            return False
        before = (peer.groups, peer.standby, peer.reach, peer.hears_me)
        silence = peer.silence(now)
        overdue = silence is None or silence > self.config.heartbeat.isolated_after
        later = known is None or word.seen.get(me, (0, 0)) > known.seen.get(me, (0, 0))
        if later or silence is None or silence > self.config.heartbeat.dead_after:
            self.answered[word.node] = now
        self.words[word.node] = word
        self.skews[word.node] = word.clock - time.time()
        heard = {**peer.heard, path: now}
        made = peer._replace(
            heard=heard,
            boot=word.boot,
            groups=word.groups,
            standby=word.standby,
            reach=word.reach,
            hears_me=me in word.hears,
            hears=word.hears,
            digest_same=word.digest == self.config.digest[:16],
            arbiter=word.arbiter,
        )
        self.peers[word.node] = made
        return overdue or before != (made.groups, made.standby, made.reach, made.hears_me)

    def rumour(self, word: Word, now: float, known: Callable[[str], int | None]) -> None:
        """A word has come that may be an old one: it says that somebody may be there, and what was true once.

        `known`: the highest epoch of a group that was known before.
        """
        peer = self.peers[word.node]
        new = {name: claim.epoch for name, claim in word.groups.items() if claim.epoch > (known(name) or 0)}
        self.peers[word.node] = peer._replace(rumoured=now, rumours=word.groups, news={**peer.news, **new})

    def expect_lan(self, mine: bool, now: float) -> None:
        """The LAN is a path only while both ends have an address there; it counts from when that began.

        It is not forgotten while it is where the peer was heard last; what was heard there a moment after another path
        counts for that one. Or the peer's silence would be longer than it is.
        """
        for name, peer in self.peers.items():
            word = self.words.get(name)
            expected = mine and word is not None and word.lan
            if expected and LAN not in peer.heard:
                self.peers[name] = peer._replace(heard={**peer.heard, LAN: now})
            elif not expected and LAN in peer.heard and peer.silence(now) is not None:
                heard = {path: at for path, at in peer.heard.items() if path != LAN}
                there, least = peer.heard[LAN] or 0.0, self.config.heartbeat.interval
                last, path = max((at or 0.0, path) for path, at in heard.items())
                if last >= there - least:
                    self.peers[name] = peer._replace(heard={**heard, path: max(last, there)})

    def note(self, rules: Rules, me: Me, now: float) -> tuple[Peer, ...]:
        """The picture of all peers, with its "since" fields brought up to date."""
        noted = tuple(picture.note(rules, me, peer, now) for peer in self.peers.values())
        self.peers = {peer.name: peer for peer in quorum.assess(rules, me, noted, now)}
        return tuple(self.peers.values())

    def urgent(self, rules: Rules, now: float) -> bool:
        """Whether a peer that was there is overdue: every moment counts."""
        return any(_overdue(rules, peer.last(), now) for peer in self.peers.values())

    def partly(self, rules: Rules, now: float) -> bool:
        """Whether a peer is overdue on one path at least: both ends count the reference hosts anew, before they judge
        whose network it is.
        """
        for peer in self.peers.values():
            for at in peer.heard.values():
                if _overdue(rules, at, now):
                    return True
        return False

    def pace(self, rules: Rules, standby: bool, now: float) -> float:
        """Seconds between two questions to a reference host.

        Who hears nobody has nothing else that shows that it is cut off, and a peer that hears nobody either, but lives,
        takes what it serves as soon as its address is silent: so it asks as often as a heartbeat would come.
        """
        if self.partly(rules, now):
            return reach.URGENT
        if not self.heard(rules, now):
            return rules.interval
        return reach.CLOSE if standby else reach.CALM

    def heard(self, rules: Rules, now: float) -> tuple[str, ...]:
        """The peers that are heard now."""
        return tuple(name for name, peer in self.peers.items() if peer.fresh(rules, now))

    def unheard(self, rules: Rules, now: float) -> set[str]:
        """The others."""
        return set(self.peers) - set(self.heard(rules, now))

    def limits(self, rules: Rules, now: float) -> list[float]:
        """When a peer that says nothing more is overdue, not heard, dead: the times that are yet to come."""
        limits = []
        for peer in self.peers.values():
            last = peer.last()
            if last is None:
                continue
            for limit in (rules.interval + picture.SLACK, rules.isolated_after, rules.dead_after):
                at = last + limit + 0.001
                if at > now:
                    limits.append(at)
        return limits

    def seen(self, rules: Rules, now: float) -> dict[str, tuple[int, int]]:
        """What has been heard last of each peer, for its information; a pair needs none."""
        names = self.heard(rules, now) if len(self.peers) > 1 else ()
        return {name: (word.incarnation, word.sequence) for name in names if (word := self.words.get(name))}

    def agree(self, rules: Rules, group: str, since: tuple[int, int], now: float) -> bool:
        """Whether every peer that is heard knows our word `since`, and does not want the group itself.

        So of more than two nodes no two take it at the same time, whatever is lost on the way. Only who has been heard
        for dead_after and has not heard us is not waited for. In a shorter time that may be about to change: of two
        that have just begun to hear each other, each has an old word of the other's. One that says that it hears us,
        and has come to no word of ours for UNHELD, is too busy: it starts to wait anew whenever it listens.

        A pair needs no such agreement: its peer is silent, or the group was handed over or is nobody's.
        """
        if len(self.peers) == 1:
            return True
        me = self.me.name
        for name in self.heard(rules, now):
            word = self.words.get(name)
            wants = word is None or picture.wanted(word.groups.get(group, NO_CLAIM))
            busy = now - self.answered.get(name, now) >= picture.UNHELD and not wants
            if self.peers[name].deaf(rules, now) or busy:
                continue
            if word is None or word.seen.get(me, (0, 0)) < since or wants:
                return False
        return True

    def awaits_us(self, word: Word) -> bool:
        """Whether the speaker is about to take a group, and waits for everybody to know that."""
        return len(self.peers) > 1 and any(claim.taking for claim in word.groups.values())

    def views(self, rules: Rules, now: float) -> dict[str, view.PeerView]:
        """What is published of them."""
        return {name: self._view(rules, peer, now) for name, peer in self.peers.items()}

    def _view(self, rules: Rules, peer: Peer, now: float) -> view.PeerView:
        fresh = peer.fresh(rules, now)
        return view.PeerView(
            name=peer.name,
            heard=fresh,
            paths={path: None if at is None else round(now - at, 3) for path, at in peer.heard.items()},
            standby=peer.standby,
            groups={name: claim._asdict() for name, claim in peer.groups.items()},
            reach=peer.reach,
            hears_me=peer.hears_me,
            digest_same=peer.digest_same,
            skew=round(self.skews[peer.name], 4) if fresh and peer.name in self.skews else None,
            stable=None if peer.whole_since is None else round(now - peer.whole_since, 3),
            boot=peer.boot,
            arbiter=peer.arbiter,
            vouched=peer.vouched,
            counted=peer.counted,
            rumours=_rumours(rules, peer, now),
        )


def _rumours(rules: Rules, peer: Peer, now: float) -> dict[str, int]:
    return {name: epoch for name, epoch in peer.news.items() if peer.has_it_by_rumour(rules, name, now)}


def _overdue(rules: Rules, heard: float | None, now: float) -> bool:
    return heard is not None and rules.interval + picture.SLACK < now - heard < 10 * rules.dead_after


def rules_of(config: model.Config) -> Rules:
    """The part of the configuration that decides."""
    return Rules(
        interval=config.heartbeat.interval,
        isolated_after=config.heartbeat.isolated_after,
        dead_after=config.heartbeat.dead_after,
        hold_down=config.failover.hold_down,
        start_alone=config.failover.start_alone,
        wait_for_peer=config.failover.wait_for_peer,
        failback=config.failover.failback,
        fencing=fence.wanted(config),
        arbiter=config.arbiter.kind != "reference",
        arbiter_ttl=config.arbiter.ttl,
        failsafe=config.arbiter.failsafe,
        lease=config.failover.lease,
        nodes=tuple(config.nodes),
    )


def open_paths(config: model.Config) -> list[Path]:
    """The paths of this node: its heartbeat networks, and the LAN."""
    me = config.me()
    port = config.heartbeat.port
    opened = []
    for network in me.networks:
        targets = {
            peer.name: tuple(_plain(other.address) for other in peer.networks if other.name == network.name)
            for peer in config.peers()
        }
        opened.append(Path(network.name, network.interface, port, targets))
    lan = {
        peer.name: tuple(_plain(address) for address in (*peer.addresses, *peer.admin_addresses))
        for peer in config.peers()
    }
    opened.append(Path(LAN, me.interface, port, lan))
    return opened


def _plain(address: str) -> str:
    return address.split("/")[0]
