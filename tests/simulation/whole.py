"""What must hold again some time after the last fault: every group is served, at home if it may be, and mirrored."""

from typing import TYPE_CHECKING

from clusterd import ownership, paths

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.world import World

MIRRORED = 5.0
"""Seconds in which a pass of everything has been complete."""


def missing(world: "World") -> str:
    """What is not whole; "" if all is."""
    manual = world.settings.failback == "manual"  # then a person lifts the program's standby as well
    persons = {
        machine.name
        for machine in world.machines.values()
        if (lock := machine.disk.get(paths.STANDBY)) and (manual or lock["cause"] == ownership.PERSON)
    }
    return next(filter(None, (_group(world, group, persons) for group in world.nodes)), "")


def settled(world: "World") -> bool:
    """Whether all is well, every node is up, and no script is at work on a group; one may wait for a word to begin."""
    machines = world.machines.values()
    at_work = any(name.startswith("group-") for machine in machines for name in machine.locks)
    return not at_work and all(machine.listening() for machine in machines) and not missing(world)


def left_to_a_person(world: "World") -> bool:
    """Whether somebody has put a node in standby: what it has may be handed over as soon as another one is fit."""
    locks = [machine.disk.get(paths.STANDBY) for machine in world.machines.values()]
    return any(lock and lock["cause"] == ownership.PERSON for lock in locks)


def _group(world: "World", group: str, persons: set[str]) -> str:
    """What is wrong with one group; `persons`: the nodes that only a person lets back."""
    at = ownership.path(group)
    holders = [machine for machine in world.machines.values() if group in world.holds(machine)]
    last = {machine.disk[at]["holder"] for machine in world.machines.values() if at in machine.disk}
    if not holders and persons & (last or {group}):
        told = any(("contradiction", group) in machine.told for machine in world.machines.values())
        return "" if told else f"{group} is nobody's, and nobody is told"
    if len(holders) != 1:
        return f"{group} is held by {[machine.name for machine in holders]}"
    (holder,) = holders
    if not holder.has(group) or not holder.serving.get(group):
        return f"{group}: {holder.name} holds it, and does not serve it"
    if holder.disk[at]["phase"] != ownership.HELD:
        return f"{group}: {holder.name} is still {holder.disk[at]['phase']}"
    if world.settings.failback == "auto" and not persons and not holder.disk[at]["pinned"] and holder.name != group:
        return f"{group} is not at home"
    return next(filter(None, (_copy(world, group, holder, other) for other in world.others(holder))), "")


def _copy(world: "World", group: str, holder: "Machine", other: "Machine") -> str:
    """What is wrong with a group at a node that does not hold it."""
    if other.has(group) or other.serving.get(group):
        return f"{group}: {holder.name} holds it, {other.name} serves it, too"
    if paths.STANDBY in holder.disk:
        return ""  # from a node in standby, which serves on because nobody else is to, there are no passes
    if world.clock.now - world.files.copied_at.get((other.name, group), 0.0) > MIRRORED:
        return f"{group}: {holder.name} serves it, and {other.name} has no pass of it"
    return ""
