"""What a node must have done, or told, when something has lasted for long enough; and what it must not do too early.

Judged by what is true in the simulated world, never by what a node believes; so only where the two cannot differ: on a
network that is quiet, between nodes whose watchdogs run.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from clusterd import ownership, paths
from clusterd.actions import Action, Failback, HandOver
from simulation.cables import HEARTBEAT, LAN
from simulation.clocks import WORST
from simulation.world import PAIR

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.world import World

EVERY = 0.1
"""Seconds between two looks."""
SOON = 2.5
"""Seconds in which what has to be done or told is: a census of a second, dead_after, and as much again."""
AT_ONCE = 0.3
"""Seconds within which two things are one event."""
LONG_DARK = 5.5
"""As SOON, for a node that reached no reference host before."""
HEARD = 1.0
"""Seconds after which nothing begins, nor goes on, that relied on not hearing a node."""
RETRY = 4.5
"""Seconds for which a script that failed is not tried again, at least."""


Duty = Callable[["Duties", "Machine", "Machine"], str]
"""What is wrong, if it lasts, between two nodes; "" if nothing is."""


class Duties:
    """Watches a pair; of more nodes too much depends on the others."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.since: dict[tuple[str, ...], float] = {}
        """Since when each duty is due."""
        self.even_since: dict[str, float] = {}
        """Since when each node reaches as many reference hosts as its peer, or more, on a quiet network..."""
        self.counts: dict[str, tuple[int, int]] = {}
        """...and both the same ones: how many each of the two does."""
        if len(world.nodes) == PAIR:
            world.clock.at(EVERY, self._look)

    def decided(self, machine: "Machine", action: Action) -> None:
        """A watchdog has decided that."""
        world, now = self.world, self.world.clock.now
        if len(world.nodes) != PAIR:
            return
        (other,) = world.others(machine)
        if isinstance(action, Failback):
            stable = (now - other.clocks.booted_at) * (1 + WORST)
            if AT_ONCE < stable < world.settings.hold_down:  # of the last moment it cannot have heard
                world.violated(f"{machine.name} sends {action.group} home {stable:.2f} s after {other.name} has booted")
        even = now - self.even_since.get(machine.name, now)
        if isinstance(action, HandOver) and "reference hosts" in action.why and even > SOON:
            world.violated(f"{machine.name} hands {action.group} over, and reaches as much as {other.name}")

    def started(self, machine: "Machine", program: str, group: str, options: list[str]) -> None:
        """A watchdog starts a script."""
        if program == "release" and "--let-go" not in options:
            failed = machine.failed.get(group)
            if failed is not None and self.world.clock.now - failed < RETRY:
                self.world.violated(f"{machine.name}: release {group} has just failed, and is tried again")

    def acquires(self, machine: "Machine", group: str, before: str) -> None:
        """A watchdog's takeover begins; `before`: who had the group last, as the disk of the machine says."""
        rules, world = self.world.settings, self.world
        heard = [world.heard.get((other.name, machine.name), -1.0) for other in world.others(machine)]
        if max(heard) >= machine.clocks.booted_at or len(world.nodes) != PAIR:
            return
        waited = (world.clock.now - machine.clocks.booted_at) * (1 + WORST)
        wait = rules.dead_after if machine.clean else max(rules.dead_after, rules.wait_for_peer)
        sure = group == machine.name and before in ("", machine.name)
        if rules.start_alone == "never" or (rules.start_alone == "home" and not sure):
            world.violated(f"{machine.name} starts alone with {group}, and may not")
        elif waited < wait:
            world.violated(f"{machine.name} starts alone with {group}, {waited:.2f} s after it has booted")

    def fences(self, machine: "Machine", other: "Machine") -> None:
        """A takeover has the other node switched off: not if that has been heard again for long.

        By a watchdog that could end the takeover all the while: what was stopped goes on before it does. And by words
        that are no rumours to it: the other one has heard it since its boot.
        """
        world, now = self.world, self.world.clock.now
        between, process = (other.name, machine.name), world.process
        recent = now - world.heard.get(between, -1.0) < world.settings.isolated_after and machine.listening()
        heard = recent and machine.loop is not None and machine.loop.watch.door.nonce in world.words[between].echo
        since = max(world.fresh_since.get(between, now), machine.thawed)
        mine = process is not None and process.ordered_by is machine.loop  # another loop does not know of it
        if heard and process and mine and "--on-go" in process.name and now - since > HEARD:
            world.violated(f"{machine.name} has {other.name} switched off, which it hears")

    def _look(self) -> None:
        one, two = self.world.machines.values()
        quiet, reach = self.quiet(), (self._reach(one), self._reach(two))
        well = quiet and one.listening() and two.listening() and not self._at_work(one, two)
        well &= not (one.full or two.full)  # what a disk does not take is done when it does
        well &= not (one.damaged or two.damaged)
        if not well:
            self.since.clear()
        for machine, other, counts in ((one, two, reach), (two, one, reach[::-1])):
            even = quiet and counts[0] >= counts[1] and counts == self.counts.get(machine.name)
            self.counts[machine.name] = counts
            if not even:
                self.even_since.pop(machine.name, None)
            else:
                self.even_since.setdefault(machine.name, self.world.clock.now)
            for duty in DUTIES if well else ():
                self._watch(duty, machine, other)
        self.world.clock.at(self.world.clock.now + EVERY, self._look)

    def _watch(self, duty: Duty, machine: "Machine", other: "Machine") -> None:
        key = (duty.__name__, machine.name)
        due = duty(self, machine, other)
        if not due:
            self.since.pop(key, None)
            return
        since = self.since.setdefault(key, self.world.clock.now)
        dark = self.world.cables.lost_hosts_at.get(machine.name)
        long = duty is _hands_over and dark is not None and since - dark > AT_ONCE
        ttl = self.world.config.arbiter.ttl if duty is _follows_etcd else 0.0
        if self.world.clock.now - since > ttl + (LONG_DARK if long else SOON):
            self.since[key] = self.world.clock.now
            self.world.violated(due)

    def quiet(self) -> bool:
        """Whether no datagram is lost or late by chance."""
        cables = self.world.cables
        return not any(
            effects[path]
            for effects in (cables.loss, cables.delay, cables.doubled, cables.overtaken)
            for path in (HEARTBEAT, LAN)
        )

    def _at_work(self, *machines: "Machine") -> bool:
        """Whether a script moves something, or one has failed and is tried again later only."""
        return any(
            machine.failed or any(not process.name.startswith("mirror") for process in machine.processes)
            for machine in machines
        )

    def _reach(self, machine: "Machine") -> int:
        return sum(self.world.cables.host(machine.name, host) for host in self.world.config.reference)

    def joined(self, path: str, one: "Machine", other: "Machine") -> bool:
        """Whether they hear each other on that path, as far as the cables go."""
        cables = self.world.cables
        return cables.direct(path, one.name, other.name) and cables.direct(path, other.name, one.name)

    def serves(self, machine: "Machine") -> list[str]:
        """The groups that the machine has, wholly."""
        facts = {group: machine.disk.get(ownership.path(group)) for group in self.world.nodes if machine.has(group)}
        return [
            group
            for group, fact in facts.items()
            if fact and fact["holder"] == machine.name and fact["phase"] == ownership.HELD
        ]

    def fewer(self, machine: "Machine", other: "Machine") -> bool:
        """Whether the machine reaches fewer reference hosts."""
        return self._reach(machine) < self._reach(other)


def _hands_over(duties: Duties, machine: "Machine", other: "Machine") -> str:
    """Who sees less of the network hands over."""
    world = duties.world
    lan = world.on_lan(machine) and world.on_lan(other)
    if world.settings.etcd or paths.STANDBY in other.disk or not duties.joined(HEARTBEAT, machine, other):
        return ""
    if lan and not world.cables.direct(LAN, other.name, machine.name) and duties.fewer(machine, other):
        groups = duties.serves(machine)
        return f"{machine.name} reaches less than {other.name}, and keeps {groups}" if groups else ""
    return ""


def _leaves(duties: Duties, machine: "Machine", other: "Machine") -> str:
    """Who is in standby hands over what it has."""
    whole = duties.joined(HEARTBEAT, machine, other) and duties.joined(LAN, machine, other)
    if paths.STANDBY not in machine.disk or paths.STANDBY in other.disk or duties.world.settings.etcd:
        return ""
    if whole and not duties.fewer(other, machine) and duties._reach(other):
        groups = duties.serves(machine)
        return f"{machine.name} is in standby, and keeps {groups}" if groups else ""
    return ""


def _stands_by(duties: Duties, machine: "Machine", other: "Machine") -> str:
    """Who finds its group with the peer, and has nothing, is in standby."""
    world = duties.world
    if paths.STANDBY in machine.disk or world.holds(machine) or not duties.joined(HEARTBEAT, machine, other):
        return ""
    there = duties.serves(other)
    if set(there) == set(world.nodes) and not other.disk[ownership.path(machine.name)]["pinned"]:
        return f"{machine.name} has nothing, its group is with {other.name}, and it is not in standby"
    return ""


def _tells(duties: Duties, machine: "Machine", other: "Machine") -> str:
    """A path that is down is told, whoever has what."""
    world = duties.world
    lan = world.on_lan(machine) and world.on_lan(other) and duties.joined(LAN, machine, other)
    told = ("path-down", f"{other.name}/{HEARTBEAT}") in machine.told
    if lan and not told and not world.cables.direct(HEARTBEAT, other.name, machine.name):
        return f"{machine.name} does not tell that it does not hear {other.name} on the heartbeat network"
    return ""


def _follows_etcd(duties: Duties, machine: "Machine", other: "Machine") -> str:
    """Who cannot ask etcd hands over to the one that can."""
    world = duties.world
    cut = world.settings.etcd and not world.etcd.reached(machine.name) and world.etcd.reached(other.name)
    if cut and duties.joined(HEARTBEAT, machine, other) and paths.STANDBY not in other.disk and world.holds(machine):
        return f"{machine.name} does not reach etcd, {other.name} does, and {world.holds(machine)} stays there"
    return ""


DUTIES: tuple[Duty, ...] = (_hands_over, _leaves, _stands_by, _tells, _follows_etcd)
