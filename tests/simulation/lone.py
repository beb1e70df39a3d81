"""The last one that is left: the others are away for good, for repair, say. What it may serve, it serves again after
every trouble of its own.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clusterd import paths
from simulation.cables import Cut
from simulation.whole import left_to_a_person

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.world import World

SOON = 40.0
"""Seconds, beside wait_for_peer, in which it serves what it may: scripts that failed are tried again."""
CUT = 0.2, 1.5
"""Seconds for which its cable is out."""
TOGETHER = 6.0
"""Of three nodes: seconds in which one that has booted gets its group back..."""
SHORT = 2.2, 7.0
"""...and for which two are up that have booted, before the next one goes."""


def watch(world: "World", seed: int) -> None:
    """Leave one node alone, one way or another, and see that it serves; then pull its cable for a moment, and see."""
    lot = random.Random(f"lone {seed}")
    one = lot.choice(list(world.machines.values()))
    if not _able(world):
        return
    others = list(world.others(one))
    lot.shuffle(others)
    others[0].power_off()
    booted = lot.random() < 0.6
    groups: Sequence[str] = world.nodes
    if booted:
        one.power_off()
        world.clock.at(world.clock.now + lot.uniform(0.1, 2.0), one.power_on)
        if others[1:] and not _lose_another(world, lot, one, others[1]):
            return
        if not others[1:] and world.settings.start_alone == "home":
            groups = [one.name]
    for other in others[1:]:
        other.power_off()
    _expect(world, one, groups, "left alone")
    lan: list[Cut] = [("out", one.name), ("in", one.name)]
    world.cables.cut(lan, world.clock.now)
    _run(world, lot.uniform(*CUT))
    world.cables.mend(lan, world.clock.now)
    _expect(world, one, groups, "alone, after a cut of its cable")


def _lose_another(world: "World", lot: random.Random, one: "Machine", other: "Machine") -> bool:
    """Of three nodes: the second one goes soon after the first one, which `one` has not heard since it has booted;
    whether it has heard the second one, and is to serve then.
    """
    cold = lot.random() < 0.5
    if cold:
        other.power_off()
        world.clock.at(world.clock.now + lot.uniform(0.1, 2.0), other.power_on)
    _run(world, lot.uniform(*SHORT) if cold else TOGETHER + 2 * world.settings.wait_for_peer)
    heard = world.heard.get((other.name, one.name), -1.0) > one.clocks.booted_at
    if lot.random() < 0.5:
        one.kill_loop()
        _run(world, lot.uniform(0.0, 1.0))
    other.power_off()
    return heard and paths.STANDBY not in one.disk  # else its group is not home yet: it takes nothing, whoever dies


def _able(world: "World") -> bool:
    """Whether it is known what a node has to do that is left alone now: all is in order, and nothing is a person's."""
    if world.violations or left_to_a_person(world) or world.settings.start_alone == "never":
        return False
    locks = any(paths.STANDBY in machine.disk for machine in world.machines.values())
    home = all(name in world.holds(machine) for name, machine in world.machines.items())
    return home and not locks and not world.settings.guarded()


def _expect(world: "World", one: "Machine", groups: Sequence[str], when: str) -> None:
    """It serves these groups before long."""
    end = world.clock.now + world.settings.wait_for_peer + SOON
    while not world.violations and (idle := [group for group in groups if not _serves(world, one, group)]):
        if world.clock.now > end:
            world.violated(f"{one.name}, {when}, does not serve {', '.join(idle)}")
            return
        _run(world, 0.3)


def _serves(world: "World", one: "Machine", group: str) -> bool:
    return group in world.holds(one) and one.has(group) and bool(one.serving.get(group))


def _run(world: "World", seconds: float) -> None:
    world.clock.run(world.clock.now + seconds, world.checks.after)
