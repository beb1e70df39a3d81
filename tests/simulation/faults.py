"""Bad days, drawn by lot: what breaks, when, and for how long; and what people type meanwhile."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from clusterd import ownership, paths, setback
from clusterd.model import Config
from simulation import scripts
from simulation.cables import HEARTBEAT, LAN, Cut
from simulation.machine import Machine
from simulation.world import PAIR, Settings, World

FIRST = 0.7, 1.3
"""Seconds between which the first fault begins: all that were up for long have heard each other, or are starting."""
SPANS = 0.5, 1.0, 2.0, 4.0
"""Seconds within which the others follow. What takes long, as to go home, happens after the last one as well."""
LONGEST = 6.0
FENCED = 0.25
"""The share of clusters that have a fence agent."""
THRICE = 8.0
"""Seconds within which the same faults come three times: each time all should be well before."""
FULL = "disk full"
"""The fault that is drawn by itself; see filled."""
FILLED = 0.15
"""The share of days on which a node's disk is full for a while."""
DAMAGED = "record damaged"
"""Likewise; see damaged."""
SPOILT = 0.02
"""The share of days on which a group's record is damaged, in the end..."""
QUIET = 10.0
"""...so many seconds after everything else..."""
REPLACED = 13.0
"""...and for so long: then a person removes it. Before that another node has the group..."""
TAKEN = 11.5
"""...by then: its lease must end, and nobody have it for 6 s."""
IN_COMPANY = 0.1
"""Of how many days all faults come at about the same time."""


class Fault(NamedTuple):
    """One thing that goes wrong."""

    at: float
    lasts: float
    name: str
    node: str
    other: str
    host: str

    def __str__(self) -> str:
        return f"{self.at:8.3f} s  {self.name} {self.node} for {self.lasts:.3f} s"


def settings(rng: random.Random, nodes: int) -> Settings:
    """A cluster."""
    slow = rng.random() < 0.2
    return Settings(
        interval=0.2 if slow else 0.1,
        isolated_after=0.36 if slow else 0.18,
        dead_after=0.6 if slow else 0.3,
        lease=rng.choice((1.0, 2.0)),
        hold_down=rng.choice((0.5, 1.0, 2.0)),
        failback="manual" if rng.random() < 0.2 else "auto",
        start_alone=rng.choice(("home", "home", "any", "never")),
        wait_for_peer=rng.choice((1.0, 3.0)),
        admin=rng.random() < 0.4,
        hosts=rng.choice((1, 2, 3)),
        nodes=nodes,
    )


def fenced(seed: int, settings: Settings, *, always: bool = False) -> Settings:
    """One cluster in four has a fence agent; of the others nothing changes."""
    lot = random.Random(f"fence {seed}")
    if lot.random() > FENCED and not always:
        return settings
    return settings._replace(agent=lot.choice(("works", "fails")), delay=lot.choice((0.0, 1.0)))


def draw(rng: random.Random, config: Config, only: tuple[str, ...] = ()) -> list[Fault]:
    """A bad day; `only` faults of those names, if any are named."""
    nodes, hosts = tuple(config.nodes), config.reference
    drawn = [name for name in _EFFECTS if name not in (FULL, DAMAGED)]
    names = list(only or (*_CUTS, *drawn, "power", "power", "kill script", "freeze", "loss"))
    if len(nodes) == PAIR:
        names = [name for name in names if name != "apart everywhere"]  # of a pair that is the stated exception
    if not only and rng.random() < IN_COMPANY:
        return company(rng, config, tuple(rng.sample(names, rng.choice((2, 2, 3, 4)))))
    faults: list[Fault] = []
    span = rng.choice(SPANS)
    for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5, 6, 8))):
        node = rng.choice(nodes)
        other = _another(rng, nodes, node)
        lasts = min(LONGEST, rng.choice((0.05, 0.2, 0.5, 2.0)) * rng.expovariate(1.0) + 0.01)
        # Troubles come in company: often close to the one before.
        near = faults and rng.random() < 0.5
        at = faults[-1].at + rng.expovariate(2.0) if near else rng.uniform(0.0, span)
        faults.append(Fault(min(at, span + 1.0), lasts, rng.choice(names), node, other, rng.choice(hosts)))
    return _begun(rng, faults)


def filled(seed: int, nodes: tuple[str, ...], bad: list[Fault]) -> list[Fault]:
    """On some days a disk is full besides, from about the time of another fault on; of the others nothing changes."""
    lot = random.Random(f"disk {seed}")
    if lot.random() > FILLED:
        return bad
    node = lot.choice(nodes)
    at = max(FIRST[0], lot.choice(bad).at + lot.uniform(-0.3, 0.3))
    lasts = min(LONGEST, lot.choice((0.2, 0.5, 2.0)) * lot.expovariate(1.0) + 0.05)
    return sorted([*bad, Fault(at, lasts, FULL, node, _another(lot, nodes, node), "")])


def damaged(seed: int, nodes: tuple[str, ...], bad: list[Fault]) -> list[Fault]:
    """On some days, when all else is over, the record of a group that a node has is damaged."""
    lot = random.Random(f"record {seed}")
    if lot.random() > SPOILT:
        return bad
    node = lot.choice(nodes)
    at = max(fault.at + fault.lasts for fault in bad) + QUIET
    return [*bad, Fault(at, REPLACED, DAMAGED, node, _another(lot, nodes, node), "")]


def _begun(rng: random.Random, faults: list[Fault]) -> list[Fault]:
    """In their order, and nothing is waited for before the first one."""
    early = rng.uniform(*FIRST) - min(fault.at for fault in faults)
    return sorted(fault._replace(at=fault.at + early) for fault in faults)


def _another(rng: random.Random, nodes: tuple[str, ...], node: str) -> str:
    others = [name for name in nodes if name != node]
    return others[0] if len(others) == 1 else rng.choice(others)


def company(rng: random.Random, config: Config, kinds: tuple[str, ...]) -> list[Fault]:
    """A day on which all of `kinds` come at about the same time, and that three times."""
    nodes, hosts = tuple(config.nodes), config.reference
    faults: list[Fault] = []
    for at in [rng.uniform(0.0, THRICE) for _ in range(3)]:
        for kind in kinds:
            node = rng.choice(nodes)
            lasts = min(LONGEST, rng.choice((0.2, 0.5, 2.0)) * rng.expovariate(1.0) + 0.05)
            other = _another(rng, nodes, node)
            faults.append(Fault(at + rng.expovariate(8.0), lasts, kind, node, other, rng.choice(hosts)))
    return _begun(rng, faults)


def plan(world: World, faults: list[Fault]) -> float:
    """Have them happen; returns when the last one is over."""
    for fault in faults:
        world.clock.at(fault.at, _begin, world, fault)
    return max(fault.at + fault.lasts for fault in faults) + 0.001


def _begin(world: World, fault: Fault) -> None:
    world.trace("", f"FAULT {fault.name} {fault.node} {fault.lasts:.3f} s")
    if fault.name in _CUTS:
        cut = _CUTS[fault.name](world, fault)
        world.cables.cut(cut, world.clock.now)
        world.clock.at(world.clock.now + fault.lasts, _mend, world, fault, cut)
    else:
        _EFFECTS[fault.name](world, fault)


def _mend(world: World, fault: Fault, cut: list[Cut]) -> None:
    world.trace("", f"over: {fault.name} {fault.node}")
    world.cables.mend(cut, world.clock.now)


Sides = tuple[list[str], list[str]]
"""What a cut is between: the node of the fault, perhaps with others, and the rest that it concerns."""


def _pair(_world: World, fault: Fault) -> Sides:
    return [fault.node], [fault.other]


def _alone(world: World, fault: Fault) -> Sides:
    return [fault.node], [name for name in world.nodes if name != fault.node]


def _some(world: World, fault: Fault) -> Sides:
    """One cable, or all of that node."""
    if len(world.nodes) == PAIR:
        return _pair(world, fault)
    return world.clock.random.choice((_pair, _alone))(world, fault)


def _halves(world: World, fault: Fault) -> Sides:
    """All nodes, some on either side."""
    one, other = _pair(world, fault)
    for name in world.nodes:
        if name not in (fault.node, fault.other):
            world.clock.random.choice((one, other)).append(name)
    return one, other


def _cut(what: str, sides: Sides, *, back: bool = True) -> list[Cut]:
    """Nothing gets from the one side to the other, nor `back`."""
    one, other = sides
    there = [(what, sender, receiver) for sender in one for receiver in other]
    return [*there, *((what, receiver, sender) for _, sender, receiver in there)] if back else list(there)


def _isolate(world: World, fault: Fault) -> list[Cut]:
    return [("out", fault.node), ("in", fault.node), *_cut(HEARTBEAT, _alone(world, fault))]


def _split(world: World, sides: Sides) -> list[Cut]:
    """Two halves, each with the reference hosts that chance gives it, and with clients of its own."""
    one, other = sorted(sides, key=lambda side: world.nodes.index(min(side)))
    far: list[Cut] = []
    for host in world.config.reference:
        far += [("far", name, host) for name in world.clock.random.choice((one, other))]
    return [*_cut("apart", sides, back=False), *_cut("between", sides), *far]


def _split_all(world: World, fault: Fault) -> list[Cut]:
    sides = _halves(world, fault)
    return _split(world, sides) + _cut(HEARTBEAT, sides)


def _apart(sides: Sides) -> list[Cut]:
    return _cut("between", sides) + _cut(HEARTBEAT, sides)


def _one_way(world: World, fault: Fault) -> list[Cut]:
    sides = _some(world, fault)
    return _cut("between", sides, back=False) + _cut(HEARTBEAT, sides, back=False)


_CUTS: dict[str, Callable[[World, Fault], list[Cut]]] = {
    "heartbeat cut": lambda world, fault: _cut(HEARTBEAT, _some(world, fault)),
    "heartbeat cut one way": lambda world, fault: _cut(HEARTBEAT, _some(world, fault), back=False),
    "LAN cable pulled": lambda _, fault: [("out", fault.node), ("in", fault.node)],
    "LAN sends nothing": lambda _, fault: [("out", fault.node)],
    "LAN receives nothing": lambda _, fault: [("in", fault.node)],
    "all cables pulled": _isolate,
    "LAN split": lambda world, fault: _split(world, _halves(world, fault)),
    "LAN and heartbeat split": _split_all,
    "nodes kept apart on the LAN": lambda world, fault: _cut("between", _some(world, fault)),
    "nodes kept apart on the LAN, one way": lambda world, fault: _cut("between", _some(world, fault), back=False),
    "one way everywhere": _one_way,
    "apart everywhere": lambda world, fault: _apart(_pair(world, fault)),
    "host off": lambda _, fault: [("host", fault.host)],
    "all hosts off": lambda world, _: [("host", host) for host in world.config.reference],
    "host out of reach": lambda _, fault: [("far", fault.node, fault.host)],
    "switch off": lambda world, _: [(way, node) for way in ("out", "in") for node in world.nodes],
}


def _loss(world: World, fault: Fault) -> None:
    rng = world.clock.random
    for path in (HEARTBEAT, LAN):
        for effects, amount in (
            (world.cables.loss, rng.choice((0.0, 0.05, 0.2, 0.4))),
            (world.cables.delay, rng.choice((0.0, 0.005, 0.03, 0.1))),
            (world.cables.doubled, rng.choice((0.0, 0.3))),
        ):
            effects[path].append(amount)
            world.clock.at(world.clock.now + fault.lasts, effects[path].remove, amount)
    world.cables.note(world.clock.now)
    world.clock.at(world.clock.now + fault.lasts, world.cables.note, world.clock.now + fault.lasts)


def _reorder(world: World, fault: Fault) -> None:
    for path in (HEARTBEAT, LAN):
        amount = world.clock.random.choice((0.1, 0.3, 0.6))
        world.cables.overtaken[path].append(amount)
        world.clock.at(world.clock.now + fault.lasts, world.cables.overtaken[path].remove, amount)


def _power(world: World, fault: Fault) -> None:
    machine = world.machines[fault.node]
    machine.power_off()
    world.clock.at(world.clock.now + fault.lasts, machine.power_on)


def _power_both(world: World, fault: Fault) -> None:
    _power(world, fault)
    for other in _some(world, fault)[1]:
        _power(world, fault._replace(node=other, lasts=fault.lasts * world.clock.random.choice((0.5, 1.0, 3.0))))


def _shut_down(world: World, fault: Fault) -> None:
    machine = world.machines[fault.node]
    machine.stop_watchdog(LONGEST)
    world.clock.at(world.clock.now + 0.3, _power, world, fault)


def _freeze(world: World, fault: Fault, which: str = "frozen") -> None:
    machine = world.machines[fault.node]
    setattr(machine, which, getattr(machine, which) + 1)
    world.clock.at(world.clock.now + fault.lasts, _thaw, machine, which)


def _thaw(machine: Machine, which: str) -> None:
    setattr(machine, which, getattr(machine, which) - 1)
    machine.sim.trace(machine.name, f"{which} no more")
    machine.thaw()


def _damage(world: World, fault: Fault) -> None:
    """What the disk has of a group that the node holds cannot be read any more."""
    machine = world.machines[fault.node]
    for group in world.holds(machine)[:1] if machine.powered else ():
        path = ownership.path(group)
        machine.damaged.add(path)
        machine.stamps[path] += 1
        world.clock.at(world.clock.now + TAKEN, _taken, world, machine, group)
        world.clock.at(world.clock.now + REPLACED, _replace, world, machine, group)


def _taken(world: World, machine: Machine, group: str) -> None:
    """Another node has it by now, if one could take it."""
    others = world.others(machine)
    able = all(each.listening() and paths.STANDBY not in each.disk for each in (*others, machine))
    quiet = able and world.checks.duties.quiet() and not any(each.processes for each in others)
    if quiet and not any(group in world.holds(each) for each in others):
        world.violated(f"{group} is nobody's, for its record is damaged at {machine.name}")


def _replace(world: World, machine: Machine, group: str) -> None:
    """A person does what the notice says: a peer is heard, the file goes, what still runs is stopped."""
    seen = machine.view if machine.listening() else None
    if seen is None or not all(peer.heard for peer in seen.peers.values()):
        world.clock.at(world.clock.now + 0.5, _replace, world, machine, group)
        return
    path = ownership.path(group)
    machine.damaged.discard(path)
    del machine.disk[path]
    machine.stamps[path] += 1
    machine.serving[group] = machine.has(group)
    world.trace(machine.name, f"the record of {group} is removed")


def _clock(world: World, fault: Fault) -> None:
    """The wall clock jumps; in the end it is put right, by timesync or by somebody who does not say so."""
    machine = world.machines[fault.node]
    by = world.clock.random.choice((-3600.0, -60.0, -1.5, -0.3, 0.3, 1.5, 60.0, 3600.0))
    machine.set_clock(machine.clocks.offset + by)
    world.clock.at(world.clock.now + fault.lasts, _put_right, world, machine, world.clock.random.random() < 0.5)


def _put_right(world: World, machine: Machine, timesync: bool) -> None:
    right = machine.clocks.agreed
    by = right - machine.clocks.offset
    noted = timesync and by < 0 and machine.powered and not machine.frozen
    try:
        if noted:
            world.on(machine, lambda: setback.note(machine.clocks.wall(world.clock.now) + by))
    except OSError:
        return  # as timesync: it sets nothing back that it could not note
    if by:
        machine.set_clock(right)
    if noted:
        machine.unnoted_since = None


def _kill_script(world: World, fault: Fault) -> None:
    """SIGKILL to a script at work, on whichever machine there is one."""
    at_work = [process for machine in world.machines.values() for process in machine.processes]
    if at_work:
        process = world.clock.random.choice(at_work)
        world.trace(process.machine.name, f"SIGKILL {process.name}")
        process.kill()


def _operator(*words: str) -> Callable[[World, Fault], None]:
    def types(world: World, fault: Fault) -> None:
        machine = world.machines[fault.node]
        if machine.powered and not machine.frozen:
            group = world.clock.random.choice(world.nodes)
            options = [word.replace("OTHER", fault.other) for word in words[1:]]
            scripts.start(world, machine, words[0], [group, *options], 0.06, 0.2)

    return types


def _standby(world: World, fault: Fault) -> None:
    machine = world.machines[fault.node]
    if machine.powered:
        with suppress(OSError):  # the person is told
            world.on(machine, lambda: ownership.enter_standby(ownership.PERSON, "a person said so"))


def _unstandby(world: World, fault: Fault) -> None:
    machine = world.machines[fault.node]
    if machine.powered:
        world.on(machine, lambda: ownership.leave_standby(person=True))


_EFFECTS: dict[str, Callable[[World, Fault], None]] = {
    "loss": _loss,
    "reorder": _reorder,
    "power": _power,
    "power of both": _power_both,
    "shut down": _shut_down,
    "freeze": _freeze,
    "starve": lambda world, fault: _freeze(world, fault, "starved"),
    "slow disk": lambda world, fault: _freeze(world, fault, "slow"),
    FULL: lambda world, fault: _freeze(world, fault, "full"),
    DAMAGED: _damage,
    "kill loop": lambda world, fault: world.machines[fault.node].kill_loop(),
    "kill watchdog": lambda world, fault: world.machines[fault.node].kill_watchdog(fault.lasts),
    "stop watchdog": lambda world, fault: world.machines[fault.node].stop_watchdog(fault.lasts),
    "kill script": _kill_script,
    "clock jumps": _clock,
    "operator: standby": _standby,
    "operator: unstandby": _unstandby,
    "operator: release": _operator("release", "--to=OTHER"),
    "operator: takeover": _operator("takeover"),
    "operator: takeover, once more": _operator("takeover"),
}


def heal(world: World, lift: bool) -> None:
    """Every fault is over: what is left of them goes away."""
    for machine in world.machines.values():
        _put_right(world, machine, timesync=True)
        machine.power_on()
        if not machine.supervised:
            world.clock.at(world.clock.now + 0.5, machine.start_watchdog, machine.boot)
        if lift and machine.powered:
            standby = world.on(machine, ownership.standby)
            if standby and standby.cause == ownership.PERSON:
                world.on(machine, lambda: ownership.leave_standby(person=True))
