"""Back to a clean, running pair, quickly: for the next test."""

from . import faults, image, lifecycle, power, record
from .plan import MACHINES, NODES, Place


def to_delivery(place: Place, *, new_program: bool = False) -> None:
    """Cut both nodes' power, give them their disks as delivered, heal all faults.

    With `new_program` they get the checkout as it is now.
    """
    nodes = [MACHINES[name] for name in NODES]
    for node in nodes:
        if power.init_pid(place, node):
            power.cut(place, node)
    with record.changing(place) as kept:
        kept.off = list(NODES)
        if new_program and kept.program:
            kept.base = image.base(print)
            kept.program = image.program(kept.base, print)
    for node in nodes:
        power.clear(place, node)
        power.wipe(place, node)
    faults.heal(place)


def power_on_all(place: Place) -> None:
    """Switch on whatever is off."""
    with record.changing(place) as kept:
        kept.off = []
    lifecycle.power_on(place, lifecycle.machines_off(place, record.load(place)))
