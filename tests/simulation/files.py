"""The files of the groups, as versions: which one came from which, where each of them is, and what was replaced."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from clusterd import ownership
from simulation.checks import CLOCK

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.world import World

WRITTEN_EVERY = 0.15
"""Seconds between two writes of a client to each group that answers."""
NOTED = 1.0
"""Seconds in which a watchdog that runs has noted a setback of the clock, even on a slow disk."""
PASS_EVERY = 1.0
"""Seconds between two passes of cron."""


class Copy(NamedTuple):
    """What a pass brings."""

    version: int
    epoch: int
    found: frozenset[int]
    """Versions that the receiver has noted as written there and never mirrored."""


class Files:
    """What clients write, and what passes copy."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.parents = [0]
        """Of each version the one that it was made from; 0 is an empty tree."""
        self.written: list[tuple[str, float, float]] = [("", 0.0, 0.0)]
        """Where each was written, when, and what the wall clock showed there."""
        self.in_doubt: list[tuple[str, float, float]] = []
        """Where, from when and until when something was written after a setback of the clock that nobody has noted."""
        self.set_aside: set[tuple[str, int]] = set()
        """Versions in a backup set of a node."""
        self.epochs: dict[tuple[str, str], int] = {}
        """With which epoch the files of a group on a node were written last..."""
        self.sources: dict[tuple[str, str], str] = {}
        """...and by whom, the node itself or the sender of a pass..."""
        self.copied_at: dict[tuple[str, str], float] = {}
        """...and when by a pass."""
        self.copies = self.backed_up = self.backwards = 0
        world.clock.at(world.clock.now + WRITTEN_EVERY, self._clients)

    def contains(self, newer: int, older: int) -> bool:
        """Whether everything of the one version is in the other."""
        while newer > older:
            newer = self.parents[newer]
        return newer == older

    def _line(self, newest: int) -> Iterator[int]:
        """The version and all that it was made from."""
        while newest:
            yield newest
            newest = self.parents[newest]

    def written_since(self, machine: "Machine", group: str, since: float) -> list[int]:
        """What is in the machine's files and was written there after that wall clock."""
        line = self._line(machine.tree.get(group, 0))
        mine = ((version, *self.written[version]) for version in line)
        return [version for version, where, _, clock in mine if where == machine.name and clock >= since]

    def doubtful(self, machine: "Machine", since: float) -> None:
        """The machine's clock was set back, and before anybody had noted that its power has failed, or the clock was
        put right: that is excused only if its watchdog had no time to do so.
        """
        able_since = max(since, self.world.checks.unwell_at.get(machine.name, 0.0))
        if self.world.clock.now - able_since < NOTED:
            self.in_doubt.append((machine.name, since, self.world.clock.now))

    def _clients(self) -> None:
        for group in self.world.nodes:
            for machine in self.world.machines.values():
                if machine.has(group) and machine.serving.get(group) and self.world.cables.client(machine.name):
                    self.parents.append(machine.tree.get(group, 0))
                    now = self.world.clock.now
                    self.written.append((machine.name, now, machine.clocks.wall(now)))
                    machine.tree[group] = len(self.parents) - 1
                    self.epochs[machine.name, group] = machine.disk[ownership.path(group)]["epoch"]
                    self.sources[machine.name, group] = machine.name
        self.world.clock.at(self.world.clock.now + WRITTEN_EVERY, self._clients)

    def served(self, machine: "Machine", group: str) -> None:
        """The services of the group have been started: with all that was written, if it was handed over."""
        machine.serving[group] = True
        other = self.world.process.predecessor if self.world.process else None
        if other is not None and not self.contains(machine.tree.get(group, 0), other.tree.get(group, 0)):
            self.world.violated(f"{group} was handed to {machine.name} without all that {other.name} had written")

    def copied(self, sender: "Machine", receiver: "Machine", group: str, copy: Copy) -> None:
        """A pass replaces what the receiver has; whatever is not in what replaces it goes to a backup set."""
        version, old = copy.version, receiver.tree.get(group, 0)
        newest = self.epochs.get((receiver.name, group), 0)
        self.copies += 1
        if not self.contains(version, old):
            self.set_aside.add((receiver.name, old))
            self.backed_up += 1
            if self.contains(old, version):
                self.backwards += 1
                if (sender.name, copy.epoch) == (self.sources.get((receiver.name, group)), newest):
                    text = f"a pass from {sender.name} brings {receiver.name} older files of {group}"
                    self.world.violated(f"{text}, of the same epoch")
            self._check_found(sender, receiver, group, copy)
        if copy.epoch < newest:
            text = f"a pass from {sender.name} with epoch {copy.epoch} replaces files of {group} on {receiver.name}"
            self.world.violated(f"{text} that were written with epoch {newest}")
        self.epochs[receiver.name, group] = copy.epoch
        self.sources[receiver.name, group] = sender.name
        self.copied_at[receiver.name, group] = self.world.clock.now
        if receiver.serving.get(group) and receiver.has(group):
            text = f"a pass from {sender.name} replaces files of {group} that {receiver.name} serves"
            self.world.violated(text)
        receiver.tree[group] = version

    def _check_found(self, sender: "Machine", receiver: "Machine", group: str, copy: Copy) -> None:
        """No silent winner: what only the receiver had, because it was written there, is known as such.

        Not so what it had mirrored to a third one, which has mirrored it back: that is in a backup set, like anything.
        """
        before = self.copied_at.get((receiver.name, group), 0.0)
        new = set(self._line(copy.version))
        kept = {each for name, old in self.set_aside if name == sender.name for each in self._line(old)}
        for version in self._line(receiver.tree.get(group, 0)):
            where, when, _ = self.written[version]
            here = where == receiver.name and when > before
            if here and version not in new and version not in copy.found and version not in kept:
                if any(name == where and since <= when <= until for name, since, until in self.in_doubt):
                    self.world.checks.exceptions[CLOCK] += 1
                    continue
                text = f"a pass from {sender.name} replaces files of {group} that only {receiver.name} had"
                self.world.violated(f"{text}, and nobody is told")
                return

    def lost(self) -> str:
        """What was written and is neither in the files of any node nor in a backup set; "" if there is nothing."""
        somewhere = {version for _, version in self.set_aside}
        somewhere |= {version for machine in self.world.machines.values() for version in machine.tree.values()}
        found = {each for version in somewhere for each in self._line(version)}
        gone = [version for version in range(1, len(self.parents)) if version not in found]
        return f"{len(gone)} writes are in no files and in no backup set" if gone else ""
