"""The steward: a thread of the watchdog that has one lease in etcd for this node, and on it the groups that are ours.

It waits for etcd, so that the loop need not. The loop tells it what is wanted, many times a second; it keeps
`grants`, which the loop and the scripts read. Whatever etcd does, or does not answer: what is published is never more
than what etcd has said, counted from the time *before* it was asked.
"""

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from clusterd import arbiter, etcd, log, network, state, view
from clusterd.arbiter import Grants, Want
from clusterd.etcd import Claim, LeaseGone, NoAnswer
from clusterd.model import Config

if TYPE_CHECKING:
    from clusterd.places import Place

RENEWALS = 10
"""Renewals in the lifetime of the lease: what is left of it must outlast an election in etcd."""
URGENT = 0.05
"""Seconds between two questions while something that is wanted is not granted yet."""
AGAIN = 0.2
"""Seconds until etcd is asked again when no endpoint has answered."""
DRIFT = 0.02
"""Part of the lease by which this node's clock may be slower than etcd's; and..."""
ROUNDING = 0.05
"""...seconds besides."""


class Steward:
    """Keeps this node's lease and its groups in etcd. `step` does everything; the thread only calls it again."""

    def __init__(self, config: Config, places: "Mapping[str, Place]") -> None:
        self.config = config
        self.about = config.arbiter
        self.me = config.me().name
        self.boot = state.boot_id()
        self.places = places
        self.grants = arbiter.read() or Grants(self.boot)
        self.wants: dict[str, Want] | None = None
        """None before the loop's first word: what an earlier loop of this boot was granted must not be given back."""
        self.ticked = view.now()
        """When the loop was last seen to run."""
        self.lease, self.ttl, self.until = self.grants.lease, self.grants.ttl, self.grants.until
        """What the next look at etcd is published with; a new lease has no group on it yet."""
        self.next_renewal = 0.0
        self.looked = False
        """What stands in etcd was seen since the last renewal."""
        self.unwanted: dict[str, float] = {}
        """Groups that are ours in etcd and not wanted any more, and since when."""
        self.given_back: dict[str, int] = {}
        """The revision of what was told to be removed. A removal that no answer came to may still happen, but not to
        a later revision."""
        self._change = threading.Condition()
        self._news = self._closed = False
        self._thread = threading.Thread(target=self._work, name="steward", daemon=True)

    @cached_property
    def etcd(self) -> etcd.Etcd:
        """Made when it is first asked: in the thread, for importing etcd3gw takes longer than a loop may be silent."""
        return etcd.Etcd(self.config)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def want(self, wants: dict[str, Want], now: float) -> None:
        """What is wanted now; everything else is given back. Also says that the loop runs."""
        with self._change:
            self.ticked = now
            if wants != self.wants:
                self.wants = wants
                self._news = True
                self._change.notify()

    def close(self) -> None:
        """Ask no more."""
        with self._change:
            self._closed = True
            self._change.notify()

    def _work(self) -> None:
        while not self._closed:
            try:
                wait = self.step()
            except Exception as error:  # noqa: BLE001 - whatever it was, the lease must go on; what lapses is let go of
                why = f"{type(error).__name__}: {error}"[:500]
                if why != self.grants.why:
                    log.event("arbiter-trouble", why, level="error")
                self._lost(why)
                wait = AGAIN
            with self._change:
                self._change.wait_for(lambda: self._news or self._closed, wait)
                self._news = False

    def step(self) -> float:
        """Renew what is due, have granted what is wanted, give back what is not; seconds until there is more to do."""
        now = view.now()
        wants = self.wants
        stalled = max(self.config.failover.lease, 3 * self.config.heartbeat.interval)
        if wants is None or now - self.ticked > stalled:
            return AGAIN  # the loop hangs, its addresses lapse: somebody else must be able to take the groups
        try:
            claims = self._renew() if now >= self.next_renewal else None
            if not self.looked or self.unwanted or set(wants.items()) ^ self._as_granted(wants):
                self._settle(wants, self.etcd.claims() if claims is None else claims)
            self._publish(self.grants._replace(lost_since=None, why=""))
        except LeaseGone:
            self._forget()
            return 0.0
        except NoAnswer as error:
            self._lost(str(error))
            return AGAIN
        pending = any(name not in self.grants.groups for name in wants) or bool(self.unwanted)
        return URGENT if pending else max(0.0, self.next_renewal - view.now())

    def _as_granted(self, wants: dict[str, Want]) -> set[tuple[str, Want]]:
        """What is granted, in the words of the wants; what nobody wants any more is in it, too."""
        return {
            (name, wants.get(name, Want(0, ""))._replace(token=token)) for name, token in self.grants.groups.items()
        }

    def _renew(self) -> dict[str, Claim]:
        """The lease, or a new one if it has ended, there was none, or the configuration has another `ttl` by now: then
        what is granted stays granted by the old one until it is on the new one. Returns what stands in etcd then.
        """
        sent = view.now()
        ttl, claims = self.etcd.renew(self.lease) if self.lease else (0.0, {})
        if ttl:
            self._prolong(sent, ttl, claims)
        else:
            self._forget()
        if not ttl or self.ttl != self.about.ttl:
            sent = view.now()
            self.lease, ttl = self.etcd.new_lease(self.about.ttl)
            self.ttl, self.until = self.about.ttl, _end(sent, ttl)
            claims = self.etcd.claims()
        self.next_renewal = sent + min(ttl, self.about.ttl) / RENEWALS
        self.looked = False
        return claims

    def _prolong(self, sent: float, ttl: float, claims: dict[str, Claim]) -> None:
        """The lease is renewed, by an answer to what was sent then; and what is ours on it."""
        self.until = _end(sent, ttl)
        if self.lease == self.grants.lease:
            ours = {name for name, claim in claims.items() if claim.lease == self.lease}
            groups = {name: token for name, token in self.grants.groups.items() if name in ours}
            self._publish(self.grants._replace(until=self.until, groups=groups))

    def _settle(self, wants: dict[str, Want], claims: dict[str, Claim]) -> None:
        """Compare what stands in etcd with what is wanted, and change it: a claim that is another's never."""
        granted, others = {}, {}
        for name, want in wants.items():
            seen = claims.get(name)
            if self._claim(name, want, seen):
                granted[name] = want.token
            elif seen and seen.node != self.me:
                known = self.grants.others.get(name, ["", 0.0])
                others[name] = known if known[0] == seen.node else [seen.node, view.now()]
        # First nobody here relies on it any more, then it is given back.
        self._publish(
            self.grants._replace(
                lease=self.lease, ttl=self.ttl, until=self.until, groups=granted, others=others, told=True
            )
        )
        self._give_back({name: claim for name, claim in claims.items() if claim.node == self.me and name not in wants})
        self.looked = True

    def _claim(self, name: str, want: Want, seen: Claim | None) -> bool:
        """Whether the group is ours now."""
        mine = Claim(self.me, want.epoch, self.boot, self.lease, seen.revision if seen else 0)
        if seen == mine and seen.revision != self.given_back.get(name):
            return True
        if seen and seen.node != self.me and not arbiter.boot_over(seen.node, seen.boot):
            return False
        if not self.etcd.put(name, seen, mine):
            return False
        whose = f", which {seen.node} had: it was fenced" if seen and seen.node != self.me else ""
        log.event("arbiter-granted", f"etcd grants {name} to this node{whose}", group=name, epoch=want.epoch)
        return True

    def _give_back(self, unwanted: dict[str, Claim]) -> None:
        """Remove our claims to what is not wanted any more, as soon as its addresses are gone from this node."""
        now = view.now()
        self.unwanted = {name: self.unwanted.get(name, now) for name in unwanted}
        for name, claim in unwanted.items():
            if self._gone(name, now):
                self.given_back[name] = claim.revision
                if self.etcd.delete(name, claim):
                    del self.unwanted[name]
                    log.event("arbiter-given-back", f"{name} is given back to etcd", group=name)

    def _gone(self, name: str, now: float) -> bool:
        """Whether the kernel has the addresses no more; they are not renewed since the group is not wanted."""
        where = self.places.get(name)
        if where is None or now - self.unwanted[name] > self.config.failover.lease + 1.0:
            return True
        return len(network.missing(where)) == len(where.addresses)

    def _forget(self) -> None:
        """The lease has ended: etcd may have given everything to others. That will be known when it is looked at."""
        self.next_renewal, self.lease = 0.0, 0
        self._publish(self.grants._replace(until=min(self.grants.until, view.now())))

    def _lost(self, why: str) -> None:
        since = self.grants.lost_since
        self._publish(self.grants._replace(lost_since=view.now() if since is None else since, why=why[:500]))

    def _publish(self, grants: Grants) -> None:
        if grants != self.grants:
            self.grants = grants
            arbiter.write(grants)


def _end(sent: float, ttl: float) -> float:
    """When a lease can have ended, at the earliest, of which etcd has said after that moment that it lasts `ttl`."""
    return sent + ttl * (1 - DRIFT) - ROUNDING
