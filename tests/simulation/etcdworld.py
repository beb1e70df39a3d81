"""An etcd cluster for the simulated nodes: claims with leases on true time, and a link to each node that can be cut.

A fifth of the schedules has it. Then nothing excuses two holders, but a script that was stopped in the very act.
"""

import random
from typing import TYPE_CHECKING

from clusterd.etcd import Claim, LeaseGone, NoAnswer
from clusterd.model import Arbiter
from clusterd.steward import Steward
from simulation import present

if TYPE_CHECKING:
    from simulation.machine import Loop
    from simulation.world import Settings, World

LATE = 0.7
"""Seconds by which etcd is late at most in ending a lease."""
STEP = 0.02
"""Seconds by which the steward comes too late, at most; also when something else is wanted."""
FIRST, LAST, LONGEST = 0.7, 4.0, 6.0
"""About as the other faults."""


def chosen(settings: "Settings", seed: int, *, always: bool = False) -> "Settings":
    """Whether this schedule has an arbiter; without one it is what it always was."""
    return settings._replace(etcd=always or seed % 5 == 4, failsafe=seed % 10 == 9)


def configuration(settings: "Settings") -> Arbiter:
    """The section of cluster.conf."""
    if not settings.etcd:
        return Arbiter()
    return Arbiter("etcd", ("http://10.9.0.31:2379",), settings.lease + 2.0, 0.5, settings.failsafe)


class Cluster:
    """What all members of etcd agree on."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.random = random.Random(world.seed)
        self.far = self.random.choice(tuple(world.machines))
        """The node that is in the half without a majority when the LAN is split."""
        self.leases: dict[int, float] = {}
        self.rows: dict[str, Claim] = {}
        self.revision = 0
        self.over = 0.0
        """When it is out of nobody's reach any more."""
        for _ in range(self.random.choice((0, 1, 2, 3))):
            nodes = self.random.choice(((self.far,), tuple(world.machines), tuple(world.machines)))
            cut = [("etcd", node) for node in nodes]
            at = self.random.uniform(FIRST, LAST)
            world.clock.at(at, world.cables.cut, cut, at)
            over = at + min(LONGEST, self.random.expovariate(0.5))
            world.clock.at(over, world.cables.mend, cut, over)
            self.over = max(self.over, over)

    def reached(self, node: str) -> bool:
        """Whether a majority answers the node."""
        cuts = self.world.cables.cuts
        return not (cuts["etcd", node] or (node == self.far and self._split(node)))

    def _split(self, node: str) -> bool:
        """Whether the LAN is in two halves, and the node in another one than some other."""
        cuts = self.world.cables.cuts
        return any(cuts["apart", node, other] or cuts["apart", other, node] for other in self.world.nodes)

    def expire(self) -> None:
        """End what has not been renewed."""
        for lease in [lease for lease, ends in self.leases.items() if ends <= self.world.clock.now]:
            del self.leases[lease]
            self.rows = {name: row for name, row in self.rows.items() if row.lease != lease}

    def lives(self, ttl: float) -> float:
        """When a lease that is renewed now ends."""
        return self.world.clock.now + ttl + LATE * self.random.random()


class Etcd:
    """In place of etcd.Etcd: what one node asks. Now and then a question arrives and the answer does not."""

    def __init__(self, config: object) -> None:
        self.machine = present.world.here()

    def new_lease(self, ttl: float) -> tuple[int, float]:
        etcd = self._ask()
        etcd.revision += 1
        etcd.leases[etcd.revision] = etcd.lives(ttl)
        self._answer()
        return etcd.revision, ttl

    def renew(self, lease: int) -> tuple[float, dict[str, Claim]]:
        etcd = self._ask()
        ttl = etcd.world.config.arbiter.ttl if lease in etcd.leases else 0.0
        if ttl:
            etcd.leases[lease] = etcd.lives(ttl)
        self._answer()
        return ttl, dict(etcd.rows)

    def claims(self) -> dict[str, Claim]:
        etcd = self._ask()
        self._answer()
        return dict(etcd.rows)

    def put(self, group: str, seen: Claim | None, claim: Claim) -> bool:
        etcd = self._ask()
        if claim.lease not in etcd.leases:
            raise LeaseGone
        same = etcd.rows.get(group) == seen
        if same:
            etcd.revision += 1
            etcd.rows[group] = claim._replace(revision=etcd.revision)
            etcd.world.trace("", f"etcd: {group} is {claim.node}'s")
        self._answer()
        return same

    def delete(self, group: str, seen: Claim) -> bool:
        etcd = self._ask()
        same = etcd.rows.get(group) == seen
        if same:
            del etcd.rows[group]
            etcd.world.trace("", f"etcd: {group} is nobody's")
        self._answer()
        return same

    def _ask(self) -> Cluster:
        etcd = present.world.etcd
        etcd.expire()
        if not etcd.reached(self.machine.name):
            raise NoAnswer("cut")
        return etcd

    def _answer(self) -> None:
        if present.world.etcd.random.random() < 0.01:
            raise NoAnswer("the answer is lost")


def start(steward: Steward) -> None:
    """In place of Steward.start: its steps are events."""
    loop = present.world.here().loop
    assert loop is not None
    loop.steward = Turns(loop, steward)


class Turns:
    """The steward's thread: its steps, each as soon as something else is wanted, or when it has to be."""

    def __init__(self, loop: "Loop", steward: Steward) -> None:
        self.loop = loop
        self.steward = steward
        self.due = float("inf")
        self.soon(0.0)

    def soon(self, wait: float) -> None:
        """Have the next step in so many seconds, or a little later; or earlier if that was asked for already."""
        world = self.loop.sim
        when = world.clock.now + wait + STEP * world.etcd.random.random()
        if when < self.due:
            self.due = when
            world.clock.at(when, self._step, when)

    def _step(self, when: float) -> None:
        if self.loop.dead or when != self.due:
            return
        self.due, wait = float("inf"), STEP
        if not self.loop.machine.stopped():
            self.steward._news = False
            try:
                wait = self.loop.sim.on(self.loop.machine, self.steward.step)
            except Exception as error:  # noqa: BLE001 - a traceback of the program is what we are looking for
                self.loop.sim.crashed("watchdog", error)
        self.soon(wait)
