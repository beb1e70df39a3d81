"""Campaign: faults of the network that are no reason to move anything, however long they last."""

from collections.abc import Callable
from time import sleep

import pytest

from lab.campaign import fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES, REFERENCES
from lab.story import stays

STAYED = ("serv1",)
HOME = {"serv1": "serv1", "serv2": "serv2"}
AREA = "network, nothing moves"
LASTS, BRIEF = 8.0, 1.5
"""Seconds: the lease, the lab's hold_down and UNHELD one after the other; five times dead_after."""


def both(way: Callable[[Lab, str, str], None]) -> Callable[[Lab], None]:
    """A fault of both directions between the nodes."""

    def apply(lab: Lab) -> None:
        way(lab, "serv1", "serv2")
        way(lab, "serv2", "serv1")

    return apply


def no_references(lab: Lab) -> None:
    """Take both reference hosts off the LAN."""
    for host in REFERENCES:
        lab.ref_off(host)


LASTING: dict[str, Callable[[Lab], None]] = {
    "heartbeat cable out": Lab.cut_heartbeat,
    "LAN from the holder to the peer lost": lambda lab: lab.drop("serv1", "serv2", "eth0"),
    "LAN from the peer to the holder lost": lambda lab: lab.drop("serv2", "serv1", "eth0"),
    "heartbeats from the holder to the peer lost": lambda lab: lab.drop("serv1", "serv2", "eth1"),
    "heartbeats from the peer to the holder lost": lambda lab: lab.drop("serv2", "serv1", "eth1"),
    "half of the frames lost on the LAN": both(lambda lab, a, b: lab.drop(a, b, "eth0", 50)),
    "half of the frames lost on the heartbeat network": both(lambda lab, a, b: lab.drop(a, b, "eth1", 50)),
    "ports of the nodes isolated from each other": lambda lab: lab.isolate(*NODES),
    "both reference hosts off": no_references,
}
PASSING: dict[str, Callable[[Lab], None]] = {
    "redundant cable of the holder out": lambda lab: lab.unplug("serv1", "redundant"),
    "redundant cable of the other node out": lambda lab: lab.unplug("serv2", "redundant"),
    "switch off": Lab.switch_off,
    "one reference host off": lambda lab: lab.ref_off("ref1"),
    "one reference host out of the holder's reach": lambda lab: lab.drop("ref1", "serv1", "eth0"),
}


@pytest.mark.parametrize("name", [*LASTING, *PASSING])
def test_moves_nothing(lab: Lab, name: str) -> None:
    seconds = LASTS if name in LASTING else BRIEF
    with fault(lab, f"{name}, {seconds:g} s", AREA, answers=STAYED, quiet=True, copied=False) as day:
        (LASTING | PASSING)[name](lab)
        stays(lab, seconds, **HOME)
        lab.heal()
        day.writer.more()


def test_both_references_gone_and_the_heartbeat_cable_out(lab: Lab) -> None:
    """The nodes hear each other on the LAN: neither is isolated."""
    name = f"both reference hosts off, heartbeat cable out, {LASTS:g} s"
    with fault(lab, name, AREA, answers=STAYED, quiet=True) as day:
        no_references(lab)
        lab.cut_heartbeat()
        stays(lab, LASTS, **HOME)
        day.writer.more()


def test_the_lan_cables_of_both(lab: Lab) -> None:
    with fault(lab, f"LAN cables of both out, {BRIEF:g} s", AREA, answers=STAYED, quiet=True, copied=False):
        for node in NODES:
            lab.unplug(node, "main")
        stays(lab, BRIEF, **HOME)


def test_a_flapping_heartbeat_cable(lab: Lab) -> None:
    name = "heartbeat cable flaps every 2 s for 20 s"
    with fault(lab, name, AREA, answers=STAYED, quiet=True, copied=False):
        for _ in range(10):
            lab.cut_heartbeat()
            sleep(1)
            lab.mend_heartbeat()
            sleep(1)
