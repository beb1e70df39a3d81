"""The world that is being simulated in this process now."""

from typing import TYPE_CHECKING

from clusterd.network import Place

if TYPE_CHECKING:
    from simulation.world import World

world: "World"


def enter(made: "World") -> None:
    """Simulate that world from now on."""
    global world
    world = made


def fall_silent(where: Place) -> None:
    """The kernel of the machine whose code runs now loses the group's addresses."""
    machine = world.here()
    if machine.kernel.pop(where.group, None) is not None:
        world.trace(machine.name, f"{where.group} is down")
