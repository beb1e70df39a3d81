"""What runs on the machines beside the watchdog: takeover and release, as they are, and what they ask of the peer."""

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from clusterd import arbiter, gate, guards, lock, mirror, ownership, passes, run, setback, successor, view
from clusterd.commands import release, takeover
from clusterd.errors import BUSY, NOT_PERMITTED, UNKNOWN, ClusterdError, Failed
from clusterd.model import ALL_PATHS, Config, Group, Node, Service
from clusterd.transfer import ClocksApart
from simulation import devices, present
from simulation.files import Copy
from simulation.machine import Later
from simulation.process import Process

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.world import World

GONE = 15.0
"""Seconds after which sshd finds out that the other side has lost its power."""
PARSERS = {"takeover": takeover.parser(), "release": release.parser()}
HANDLERS: dict[str, Callable[[argparse.Namespace], int]] = {"takeover": takeover.takeover, "release": release.release}


class Lines:
    """In place of sys.stdin: that of the script that runs now."""

    def __iter__(self) -> Iterator[str]:
        process = present.world.process
        assert process is not None
        while line := process.read_line():
            yield line


def start(world: "World", machine: "Machine", program: str, words: list[str], least: float, most: float) -> Process:
    """Start takeover or release with that command line."""

    def main() -> int:
        try:
            return HANDLERS[program](PARSERS[program].parse_args(words))
        except ClusterdError as error:
            made.complaint = str(error)
            return error.exit_code

    made = machine.run(" ".join((program, *words)), main, world.clock.random.uniform(least, most))
    return made


def say(world: "World", *words: object) -> None:
    """A script prints a line."""
    assert world.process is not None
    world.process.check()
    world.process.said.append(" ".join(map(str, words)))


class Successor:
    """In place of handover.Successor: `takeover --on-go --handed-over` on the other machine, by way of ssh."""

    def __init__(self, world: "World", _config: Config, node: Node, group: Group, epoch: int, *, pinned: bool) -> None:
        self.world = world
        self.node = node
        self.here = world.here()
        self.there = world.machines[node.name]
        self.words = [group.name, "--on-go", f"--handed-over={epoch}", *(["--pinned"] if pinned else [])]
        self.process: Process | None = None
        self.ended = False
        self.answers = False
        assert world.process is not None
        world.process.at_end.append(self.hang_up)
        self.here.calls.append(self)
        world.connection(self.here, self.there, self._start)

    def _start(self) -> None:
        if not self.ended and not self.there.frozen:
            self.process = start(self.world, self.there, "takeover", self.words, 0.06, 0.3)
            self.process.predecessor = self.here
            self.process.at_end.append(self._told_end)

    def _told_end(self) -> None:
        self.world.connection(self.there, self.here, self._end)

    def _end(self) -> None:
        self.ended = True

    def ready(self) -> bool:
        self.world.spend(0.0, 0.001)
        return not self.ended

    def go(self) -> None:
        self.world.connection(self.here, self.there, self._go)
        pause, until = 0.005, self.world.clock.now + successor.SUCCESSOR_TIMEOUT
        while self.world.clock.now < until and not self.ended and not self._answered():
            self.world.spend(pause, pause)
            pause = min(pause * 1.5, 0.25)
        if not self._answered():
            self.dismiss()
            raise Failed(f"{self.node.name} did not take it: {self.why()}")

    def _go(self) -> None:
        if self.process is not None and self.process.code is None:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def _answered(self) -> bool:
        talk = self.world.cables.talk(self.here.name, self.there.name)
        self.answers |= talk and self.process is not None and bool(self.process.said)
        return self.answers

    def finish(self, timeout: float) -> str:
        until = self.world.clock.now + min(timeout, 5.0)
        while self.world.clock.now < until and not self.ended:
            self.world.spend(0.05, 0.1)
        return "" if self.process is not None and self.process.code == 0 else "not all of its services started"

    def dismiss(self) -> None:
        self.hang_up()
        self.world.spend(0.001, 0.01)

    def hang_up(self) -> None:
        """The local end is gone; a machine without power says no farewell."""
        if self.here.powered:
            self.world.connection(self.here, self.there, self._hung_up)
        else:
            self.world.clock.at(self.world.clock.now + GONE, self._hung_up)

    def _hung_up(self) -> None:
        if self.process is not None and self.process.code is None:
            self.process.stdin.close()

    def why(self) -> str:
        return self.process.complaint if self.process else "no connection"


def hang_up(world: "World", subject: str) -> None:
    """In place of peer.hang_up: what hangs on the connection to that machine fails at once. It is one for all paths."""
    name, _, path = subject.partition("/")
    here = world.here()
    if path not in ("", ALL_PATHS):
        return
    for call in [call for call in here.calls if call.there.name == name]:
        here.calls.remove(call)
        call.ended = True
        call.hang_up()


def fence(world: "World", node: Node, action: str) -> run.Result:
    """In place of fence.act: an agent that has a power switch, and sometimes no luck."""
    there, lot = world.machines[node.name], world.clock.random.random()
    fails = world.settings.agent == "fails"
    world.spend(0.05, 0.5 if lot < 0.8 else 3.0)
    if fails and lot < 0.3:
        return run.Result(("fence",), 1, None, False, "", "no answer")
    if action == "off" and not (fails and lot < 0.5):  # else it lies
        world.checks.duties.fences(world.here(), there)
        world.clock.at(world.clock.now, there.power_off)
        world.clock.at(world.clock.now + world.clock.random.uniform(1.0, 8.0), there.power_on)  # by a person
        world.spend(0.01, 0.3)
    world.trace(world.here().name, f"fence {node.name}: {action}, it is {'on' if there.powered else 'off'}")
    return run.Result(("fence",), 2 if action == "status" and not there.powered else 0, None, False, "", "")


def ask(world: "World", _config: Config, node: Node, words: list[str], *, timeout: float, **_: Any) -> run.Result:
    """In place of peer.ask: the other machine's peer_gate."""
    there = world.machines[node.name]
    world.spend(0.005, 0.05)
    name = world.here().name
    if not (there.powered and not there.frozen and world.cables.talk(name, node.name)):
        world.spend(timeout, timeout)
        return run.Result(tuple(words), None, None, True, "", "no answer")
    code, said = world.on(there, lambda: _gate(there, words))
    until = world.clock.now + arbiter.WAIT
    while code == UNKNOWN and world.clock.now < until and there.powered and world.cables.talk(name, node.name):
        world.spend(0.1, 0.2)
        code, said = world.on(there, lambda: _gate(there, words))
    world.spend(0.001, 0.01)
    return run.Result(tuple(words), code, None, False, said, "")


def _gate(there: "Machine", words: list[str]) -> tuple[int, str]:
    standby = ownership.standby()
    if words[0] == "ready":
        try:
            arbiter.check(there.sim.config, seconds=0.0)
        except ClusterdError as error:
            return error.exit_code, ""
        return (NOT_PERMITTED, "") if standby and standby.cause == ownership.PERSON else (0, "{}")
    if words[0] == "status" and view.read() is not None:
        return 0, view.text(gate.current())
    return BUSY, ""


def mirror_due(world: "World", machine: "Machine", group: str) -> None:
    """What cron starts: a pass, unless one is under way."""
    (service,) = world.config.group(group).services

    def main() -> int:
        codes = [one(world.config.nodes[other.name]) for other in world.others(machine)]
        return max(codes)

    def one(node: Node) -> int:
        try:
            run_pass(world, world.config, service, node)
        except ClusterdError as error:
            made.complaint = str(error)
            return error.exit_code
        return 0

    if f"mirror-{service.name}" not in machine.locks:
        made = machine.run(f"mirror_service {service.name}", main, world.clock.random.uniform(0.05, 0.2))


def run_pass(
    world: "World", _config: Config, service: Service, node: Node, *, leaving: bool = False, **_: Any
) -> mirror.Report:
    """In place of mirror.run_pass: a version of the files goes to the other node, in as many steps as a pass has."""
    here, there = world.here(), world.machines[node.name]
    guards.check_holder(service, leaving=leaving)
    with lock.wait_for(f"mirror-{service.name}", 60.0):
        return _pass(world, here, there, service, guards.check_holder(service, leaving=leaving))


def _pass(world: "World", here: "Machine", there: "Machine", service: Service, epoch: int) -> mirror.Report:
    group, began = service.home, setback.now()
    world.spend(0.005, 0.03)
    boots = here.boot, there.boot
    _reach(world, here, there, boots)
    if abs(here.clocks.wall(world.clock.now) - there.clocks.wall(world.clock.now)) > world.config.mirror.max_skew:
        raise ClocksApart(f"the clock of {there.name} is far from that of {here.name}")
    theirs = world.on(there, setback.now)
    _check_sender(world, there, service, here.name, epoch)
    there.receiving[group] = here.name
    version = here.tree.get(group, 0)
    found = world.on(there, lambda: _look(world, there, service, here.name, epoch))
    world.spend(0.01, 0.3)
    _reach(world, here, there, boots)
    if there.receiving.pop(group, "") != here.name:
        raise Failed(f"{there.name} has ended the pass")
    world.files.copied(here, there, group, Copy(version, epoch, found))
    _check_sender(world, there, service, here.name, epoch)
    done = passes.Done(here.name, epoch, theirs.at, world.on(there, devices.Clock.time), 1, theirs.setbacks)
    world.on(there, lambda: passes.complete_received(passes.read(service.name), done, {}))
    world.spend(0.001, 0.05)
    _reach(world, here, there, boots)
    done = passes.Done(there.name, epoch, began.at, devices.Clock.time(), 1, began.setbacks)
    passes.complete_sent(passes.read(service.name), done, {})
    return mirror.Report(service.name, there.name, True)


def _look(world: "World", there: "Machine", service: Service, sender: str, epoch: int) -> frozenset[int]:
    """What receiver.Session notes before anything is replaced: what was written there and may be nowhere else."""
    record = passes.read(service.name)
    if record.returned:
        return frozenset(int(path) for path, _ in record.returned.unmirrored)
    since = record.alone_since(sender) if record.returns(epoch) else None
    if since is None:
        return frozenset()
    found = world.files.written_since(there, service.home, since.earliest() - passes.TICK)
    passes.write(record._replace(returned=passes.Returned(epoch, tuple((str(version), True) for version in found))))
    return frozenset(found)


def _check_sender(world: "World", there: "Machine", service: Service, name: str, epoch: int) -> None:
    """What the receiver's gate says; it may have to wait for somebody else who writes the record."""
    while True:
        try:
            return world.on(there, lambda: guards.admit_sender(service, name, epoch))
        except Later:
            world.spend(0.01, 0.02)


def _reach(world: "World", here: "Machine", there: "Machine", boots: tuple[str, str]) -> None:
    """Wait until the other machine goes on; give up when it does not."""
    until = world.clock.now + world.config.mirror.timeout
    while not (there.powered and not there.frozen and world.cables.talk(here.name, there.name)):
        if world.clock.now >= until or not there.powered:
            raise Failed(f"{there.name}: the pass was cut")
        world.spend(0.1, 0.1)
    if (here.boot, there.boot) != boots:
        raise Failed(f"{there.name}: the pass was cut")
