"""The simulated world: two or three machines, what connects them, and whose turn it is. One a schedule."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from clusterd import ownership
from clusterd.errors import ClusterdError
from clusterd.model import Config, Failover, Fence, Heartbeat, Mirror, Network, Node, Notify, Service, Timesync
from clusterd.word import Word
from simulation import etcdworld
from simulation.cables import HEARTBEAT, LAN, Cables
from simulation.clockwork import Clockwork
from simulation.machine import Machine
from simulation.process import Process

if TYPE_CHECKING:
    from simulation.checks import Checks
    from simulation.files import Files

NODES = ("serv1", "serv2", "serv3")
ADDRESSES = {"10.1.0.1": "serv1", "10.1.0.2": "serv2", "10.1.0.3": "serv3"}
PAIR = 2
RETRANSMITTED = (0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Seconds after which TCP tries again, each time."""
T = TypeVar("T")


class Settings(NamedTuple):
    """What differs between the clusters that are simulated. Seconds."""

    interval: float = 0.1
    isolated_after: float = 0.18
    dead_after: float = 0.3
    lease: float = 2.0
    hold_down: float = 1.0
    failback: str = "auto"
    start_alone: str = "home"
    wait_for_peer: float = 3.0
    admin: bool = False
    """The nodes have addresses of their own on the LAN."""
    hosts: int = 2
    parallel: int = 2
    agent: str = "none"
    """The fence agent: none, one that works, or one that often does not."""
    delay: float = 0.0
    """Before serv1 is fenced."""
    etcd: bool = False
    """Ownership is a lease in etcd."""
    failsafe: bool = False
    nodes: int = 2

    def guarded(self) -> bool:
        """Whether there is what makes sure where a network that is split cannot: a fence agent, or an arbiter."""
        return self.etcd or self.agent != "none"


def configuration(settings: Settings) -> Config:
    """The configuration that all nodes have."""
    names = NODES[: settings.nodes]
    nodes = {name: _node(name, number, settings.admin) for number, name in enumerate(names, 1)}
    nodes[NODES[0]] = nodes[NODES[0]]._replace(fence_delay=settings.delay)
    return Config(
        folder="/etc/cluster.d",
        name="simulated",
        nodes=nodes,
        heartbeat=Heartbeat(settings.interval, settings.isolated_after, settings.dead_after, 694),
        reference=tuple(f"10.1.0.{250 + number}" for number in range(settings.hosts)),
        failover=Failover(
            "redundant_nic" if len(names) == PAIR else "macvlan",
            settings.failback,
            settings.hold_down,
            settings.lease,
            settings.start_alone,
            settings.wait_for_peer,
        ),
        fence=Fence(settings.agent, ()),
        mirror=Mirror(("ssh",), settings.parallel, 2.0, 2.0),
        keep="30 days",
        timesync=Timesync((), 1.0),
        notify=Notify(("root",), "", "", ()),
        services={f"files{name}": _service(f"files{name}", name) for name in names},
        digest="0" * 64,
        arbiter=etcdworld.configuration(settings),
    )


def _node(name: str, number: int, admin: bool) -> Node:
    return Node(
        name=name,
        interface="eth0",
        addresses=(f"10.1.0.{number}/24",),
        mac=f"02:00:00:00:00:0{number}",
        admin_addresses=(f"10.1.0.1{number}/24",) if admin else (),
        gateway=(),
        driver="iproute2",
        networks=(Network(HEARTBEAT, "eth1", f"192.168.111.{number}/24"),),
        redundant="eth2",
    )


def _service(name: str, home: str) -> Service:
    none: tuple[str, ...] = ()
    about = dict(unit="", start=none, stop=none, status=none, include=none, exclude=none, before=none, after=none)
    return Service(
        name=name,
        home=home,
        order=1,
        kind="none",
        timeout=10.0,
        every=1.0,
        paths=(f"/srv/{home}/",),
        whole_file=False,
        bandwidth=0,
        max_delete="10 %",
        **about,  # type: ignore[arg-type]
    )


class World:
    """Everything that exists, and the machine and script whose code runs now."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed = seed
        self.settings = settings
        self.clock = Clockwork(seed)
        self.config = configuration(settings)
        self.nodes = tuple(self.config.nodes)
        self.cables = Cables(self.clock.random, self.nodes, self.config.reference)
        self.machines = {name: Machine(self, name) for name in self.nodes}
        self._others = {
            name: [other for other in self.machines.values() if other.name != name] for name in self.machines
        }
        self.etcd = etcdworld.Cluster(self)
        self.machine: Machine | None = None
        self.process: Process | None = None
        self.said: dict[tuple[str, int, int], float] = {}
        """When each word was sent."""
        self.sent: dict[tuple[str, str], float] = {}
        """By sender and receiver: when the newest word was that has arrived..."""
        self.heard: dict[tuple[str, str], float] = {}
        """When the receiver last had a datagram from the sender..."""
        self.fresh_since: dict[tuple[str, str], float] = {}
        """...and since when there was no gap in that..."""
        self.words: dict[tuple[str, str], Word] = {}
        """...and what that said..."""
        self.held_back: dict[tuple[str, str, str], list[tuple[int, str, Word]]] = {}
        """Datagrams on their way from, to, on, each with how many later ones are still to arrive before it."""
        self.newest: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.answered: dict[tuple[str, str], float] = {}
        """...when an answer to its questions to the LAN."""
        self.at_once = False
        """What the watchdog's worker is given, and what waits for no disk, is done at once if nothing is to be done
        before it, as on an idle machine; or later, as on a busy one."""
        self.violations: list[str] = []
        self.story: list[str] | None = None
        self.wrote: Callable[[Machine, str, object, object], None] = lambda *_: None
        """Told of everything that is written to a disk."""
        self.checks: Checks
        self.files: Files

    def here(self) -> Machine:
        """The machine whose code runs now."""
        assert self.machine is not None, "code of the program runs, but on no machine"
        return self.machine

    def on(self, machine: Machine, do: Callable[[], T]) -> T:
        """Run code of the program on a machine, not as a script."""
        before = self.machine, self.process
        self.machine, self.process = machine, None
        try:
            return do()
        finally:
            self.machine, self.process = before

    def spend(self, least: float, most: float) -> None:
        """What the running script does takes that long; the watchdog's loop is not held up."""
        if self.process is not None:
            self.process.sleep(self.clock.random.uniform(least, most))

    def holds(self, machine: Machine) -> tuple[str, ...]:
        """The groups that are that machine's, as its disk says."""
        return self.on(machine, lambda: tuple(group for group in self.nodes if ownership.known_to_hold(group)))

    def others(self, machine: Machine) -> list[Machine]:
        """Those that it is not."""
        return self._others[machine.name]

    def trace(self, who: str, what: str) -> None:
        """A line of the story, if it is to be told."""
        if self.story is not None:
            self.story.append(f"{self.clock.now:9.4f}  {who:6} {what}")

    def violated(self, what: str) -> None:
        """Something happened that never may."""
        self.trace("", f"VIOLATION: {what}")
        self.violations.append(f"{self.clock.now:.3f} s: {what}")

    def crashed(self, program: str, error: Exception) -> None:
        """Code of the program ended with an exception; that of a refusal in one line is none of these."""
        if isinstance(error, ClusterdError) and program != "watchdog":
            return
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        self.violated(f"{program} crashed: {type(error).__name__}: {error} ({where.name}, line {where.lineno})")

    def broadcast(self, sender: Machine, path: str, word: Word) -> bool:
        """A datagram to every peer; whether the kernel took one."""
        self.said.setdefault((word.node, word.incarnation, word.sequence), self.clock.now)
        receivers = [
            other for other in self.others(sender) if path != LAN or (self.on_lan(sender) and self.on_lan(other))
        ]
        for receiver in receivers:
            self._send(sender, receiver, path, word)
        return bool(receivers)

    def _send(self, sender: Machine, receiver: Machine, path: str, word: Word) -> None:
        cables, now = self.cables, self.clock.now
        late = self.held_back.pop((sender.name, receiver.name, path), [])
        if receiver.powered and cables.direct(path, sender.name, receiver.name) and not cables.lost(path):
            for _ in range(2 if cables.twice(path) else 1):
                if overtakers := cables.overtakers(path):
                    late.append((overtakers + 1, receiver.boot, word))
                else:
                    self.clock.at(now + cables.latency(path), self._arrive, receiver, receiver.boot, path, word)
        if late:
            self._let_pass(sender, receiver, path, late)

    def _let_pass(self, sender: Machine, receiver: Machine, path: str, late: list[tuple[int, str, Word]]) -> None:
        """A datagram has overtaken those that are `late`: some arrive now, behind it."""
        for overtakers, boot, word in late:
            if overtakers > 1:
                self.held_back.setdefault((sender.name, receiver.name, path), []).append((overtakers - 1, boot, word))
            else:
                behind = self.clock.now + 0.002 + self.cables.latency(path)
                self.clock.at(behind, self._arrive, receiver, boot, path, word)

    def _arrive(self, receiver: Machine, boot: str, path: str, word: Word) -> None:
        if receiver.boot == boot and receiver.loop is not None and self.cables.direct(path, word.node, receiver.name):
            newest = self.newest.get((word.node, receiver.name, path), (0, 0))
            if (word.incarnation, word.sequence) > newest:
                self.newest[word.node, receiver.name, path] = (word.incarnation, word.sequence)
                if self.clock.now - self.heard.get((word.node, receiver.name), -1.0) > self.settings.isolated_after:
                    self.fresh_since[word.node, receiver.name] = self.clock.now
                self.heard[word.node, receiver.name] = self.clock.now
                self.sent[word.node, receiver.name] = self.said[word.node, word.incarnation, word.sequence]
                self.words[word.node, receiver.name] = word
            receiver.loop.hear(path, word)

    def on_lan(self, machine: Machine) -> bool:
        """Whether the machine has an address on its main NIC."""
        return self.settings.admin or machine.has(machine.name)

    def talk(self, one: Machine, other: Machine) -> bool:
        """Whether heartbeats get through both ways: on the LAN only between addresses that each has for itself."""
        lan = self.on_lan(one) and self.on_lan(other)
        return any(
            self.cables.direct(path, one.name, other.name) and self.cables.direct(path, other.name, one.name)
            for path in ((HEARTBEAT, LAN) if lan else (HEARTBEAT,))
        )

    def probe(self, asker: Machine, address: str, answer: Callable[[str, str], None]) -> None:
        """A question to the LAN who has `address`; `answer` is called when an answer comes in."""
        cables, now, boot = self.cables, self.clock.now, asker.boot
        group = ADDRESSES.get(address)
        if group is None:
            if cables.host(asker.name, address) and not (cables.lost(LAN) or cables.lost(LAN)):
                self.clock.at(now + 2 * cables.latency(LAN), self._reply, asker, boot, "", address, answer)
            return
        for machine in self.others(asker):  # arp.Socket hears no NIC of its own machine
            there = cables.direct(LAN, asker.name, machine.name) and cables.direct(LAN, machine.name, asker.name)
            if there and machine.has(group) and not (cables.lost(LAN) or cables.lost(LAN)):
                self.clock.at(now + 2 * cables.latency(LAN), self._reply, asker, boot, machine.name, address, answer)

    def _reply(self, asker: Machine, boot: str, by: str, address: str, answer: Callable[[str, str], None]) -> None:
        if asker.powered and asker.boot == boot:
            if by and by != asker.name:
                self.answered[by, asker.name] = self.clock.now
            answer(address, by)

    def connection(self, sender: Machine, receiver: Machine, do: Callable[[], object]) -> None:
        """Something sent over a connection: TCP sends it again until it arrives, or either side is no more."""
        self._transmit(sender, sender.boot, receiver, receiver.boot, 0, do)

    def _transmit(
        self, sender: Machine, one: str, receiver: Machine, other: str, attempt: int, do: Callable[[], object]
    ) -> None:
        if not (sender.powered and sender.boot == one and receiver.powered and receiver.boot == other):
            return
        if self.cables.talk(sender.name, receiver.name):
            self.clock.at(self.clock.now + 0.001 + 0.002 * self.clock.random.random(), do)
        elif attempt + 1 < len(RETRANSMITTED):
            when = self.clock.now + RETRANSMITTED[attempt + 1]
            self.clock.at(when, self._transmit, sender, one, receiver, other, attempt + 1, do)

    def close(self) -> None:
        """Let no thread of it remain."""
        for machine in self.machines.values():
            machine.power_off()
