"""What reaches whom: the heartbeat's cables, the LAN with its hosts and clients, and what is wrong with them."""

import itertools
import random
from collections import Counter

HEARTBEAT = "heartbeat"
LAN = "lan"

Cut = tuple[str, ...]
"""One thing that is broken: ("heartbeat", from, to), ("out", node), ("in", node): its LAN cable, one way each;
("between", from, to) on the LAN; ("host", host) is off; ("far", node, host); ("apart", node, node): no client sees
both."""


class Cables:
    """The state of everything between the nodes. A thing that two faults break is whole when both are over."""

    def __init__(self, rng: random.Random, nodes: tuple[str, ...], hosts: tuple[str, ...]) -> None:
        self.random = rng
        self.nodes = nodes
        self.hosts = hosts
        self.cuts: Counter[Cut] = Counter()
        self.loss: dict[str, list[float]] = {HEARTBEAT: [], LAN: []}
        self.delay: dict[str, list[float]] = {HEARTBEAT: [], LAN: []}
        self.doubled: dict[str, list[float]] = {HEARTBEAT: [], LAN: []}
        self.overtaken: dict[str, list[float]] = {HEARTBEAT: [], LAN: []}
        self.lost_hosts_at: dict[str, float] = {}
        """Since when a node is out of reach of every reference host."""
        self.dark: dict[str, tuple[float, float]] = {}
        """From when to when it last was."""
        self.whole_since: dict[tuple[str, ...], float] = dict.fromkeys(itertools.combinations(nodes, 2), 0.0)
        """Since when whatever one of two nodes asks the other on the LAN is answered at once; nothing if it is not."""

    def cut(self, things: list[Cut], now: float) -> None:
        """Break them."""
        self.cuts.update(things)
        self.note(now)

    def mend(self, things: list[Cut], now: float) -> None:
        """Take that fault away again."""
        self.cuts.subtract(things)
        self.note(now)

    def note(self, now: float) -> None:
        """Something has changed."""
        for one, other in itertools.combinations(self.nodes, 2):
            chance = self.loss[LAN] or self.delay[LAN]
            if self.direct(LAN, one, other) and self.direct(LAN, other, one) and not chance:
                self.whole_since.setdefault((one, other), now)
            else:
                self.whole_since.pop((one, other), None)
        for node in self.nodes:
            if any(self.host(node, host) for host in self.hosts):
                since = self.lost_hosts_at.pop(node, None)
                if since is not None:
                    self.dark[node] = since, now
            else:
                self.lost_hosts_at.setdefault(node, now)

    def direct(self, path: str, sender: str, receiver: str) -> bool:
        """Whether anything gets from the one node to the other on that path."""
        cuts = self.cuts
        if path == HEARTBEAT:
            return not cuts.get((HEARTBEAT, sender, receiver))
        return not (cuts.get(("out", sender)) or cuts.get(("in", receiver)) or cuts.get(("between", sender, receiver)))

    def talk(self, one: str, other: str) -> bool:
        """Whether a connection between the two works, on whatever path."""
        return any(self.direct(path, one, other) and self.direct(path, other, one) for path in (HEARTBEAT, LAN))

    def host(self, node: str, host: str) -> bool:
        """Whether the reference host is on, and question and answer get through."""
        return self.client(node) and not (self.cuts.get(("host", host)) or self.cuts.get(("far", node, host)))

    def asked(self, one: str, other: str) -> float:
        """Since when each of the two is answered by the other on the LAN; infinity if it is not."""
        return self.whole_since.get((one, other), self.whole_since.get((other, one), float("inf")))

    def client(self, node: str) -> bool:
        """Whether a client somewhere on the LAN can talk to the node."""
        return not (self.cuts.get(("out", node)) or self.cuts.get(("in", node)))

    def common(self, one: str, other: str) -> bool:
        """Whether one and the same client can talk to both."""
        apart = self.cuts.get(("apart", one, other)) or self.cuts.get(("apart", other, one))
        return not apart and self.client(one) and self.client(other)

    def lost(self, path: str) -> bool:
        """Whether this packet is lost by chance."""
        loss = self.loss[path]
        return bool(loss) and self.random.random() < max(loss)

    def latency(self, path: str) -> float:
        """Seconds that this packet takes."""
        delay = self.delay[path]
        base = 0.0002 + 0.0008 * self.random.random()
        return base + self.random.random() * max(delay) if delay else base

    def overtakers(self, path: str) -> int:
        """How many later ones arrive before this packet."""
        overtaken = self.overtaken[path]
        return self.random.choice((1, 1, 2, 5)) if overtaken and self.random.random() < max(overtaken) else 0

    def twice(self, path: str) -> bool:
        """Whether this packet arrives twice."""
        doubled = self.doubled[path]
        return bool(doubled) and self.random.random() < max(doubled)
