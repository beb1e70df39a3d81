"""Campaign: faults of the network that are no reason to move anything, however long they last."""

from collections.abc import Callable
from time import monotonic, sleep

import pytest

from lab.campaign import fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES, REFERENCES
from lab.story import LONG, OTHER, stays

STAYED = ("serv1",)
HOME = {"serv1": "serv1", "serv2": "serv2"}
AREA = "network, nothing moves"
LASTS, SHORT = 8.0, 5.0
"""Seconds: the lease, the lab's hold_down and UNHELD one after the other; and longer than each of them."""
LATE = 0.15
"""Seconds without a datagram on a path: one at least is lost."""

Deed = Callable[[Lab], None]
Noticed = Callable[[Lab], bool]


# --- what the nodes notice -------------------------------------------------------------------------------------------


def down(path: str, *nodes: str) -> Noticed:
    """These nodes say that a path to the other one is down."""

    def noticed(lab: Lab) -> bool:
        return all(["path-down", f"{OTHER[node]}/{path}"] in said(lab, node) for node in nodes)

    return noticed


def said(lab: Lab, node: str) -> list[list[str]]:
    """What is the matter, as the node's watchdog sees it now: name and subject."""
    view = lab.view(node)
    return [condition[:2] for condition in view["conditions"]] if view else []


def late(path: str) -> Noticed:
    """Both nodes miss a datagram on a path, at the same moment."""

    def age(lab: Lab, node: str) -> float:
        view = lab.view(node)
        return (view["peers"][OTHER[node]]["paths"].get(path) if view else None) or 0.0

    return lambda lab: all(age(lab, node) > LATE for node in NODES)


def reach(count: int, *nodes: str) -> Noticed:
    """These nodes reach so many reference hosts."""
    return lambda lab: all((lab.view(node) or {}).get("reach") == count for node in nodes)


def no_link(node: str) -> Noticed:
    """The node says that it could not take a group over."""
    return lambda lab: ["not-ready", "eth2"] in said(lab, node)


def every(*of: Noticed) -> Noticed:
    """All of these."""
    return lambda lab: all(each(lab) for each in of)


# --- what is done to them --------------------------------------------------------------------------------------------


def both(way: Callable[[Lab, str, str], None]) -> Deed:
    """A fault of both directions between the nodes."""

    def apply(lab: Lab) -> None:
        way(lab, "serv1", "serv2")
        way(lab, "serv2", "serv1")

    return apply


def no_references(lab: Lab) -> None:
    """Take both reference hosts off the LAN."""
    for host in REFERENCES:
        lab.ref_off(host)


def no_references_and_no_heartbeat_cable(lab: Lab) -> None:
    """The nodes hear each other on the LAN: neither is isolated."""
    no_references(lab)
    lab.cut_heartbeat()


def no_main_cables(lab: Lab) -> None:
    """Take both nodes off the LAN."""
    for node in NODES:
        lab.unplug(node, "main")


FAULTS: dict[str, tuple[Deed, Noticed, float]] = {
    "heartbeat cable out": (Lab.cut_heartbeat, down("heartbeat", *NODES), LASTS),
    "LAN from the holder to the peer lost": (
        lambda lab: lab.drop("serv1", "serv2", "eth0"),
        down("lan", "serv2"),
        LASTS,
    ),
    "LAN from the peer to the holder lost": (
        lambda lab: lab.drop("serv2", "serv1", "eth0"),
        down("lan", "serv1"),
        LASTS,
    ),
    "heartbeats from the holder to the peer lost": (
        lambda lab: lab.drop("serv1", "serv2", "eth1"),
        down("heartbeat", "serv2"),
        LASTS,
    ),
    "heartbeats from the peer to the holder lost": (
        lambda lab: lab.drop("serv2", "serv1", "eth1"),
        down("heartbeat", "serv1"),
        LASTS,
    ),
    "half of the frames lost on the LAN": (both(lambda lab, a, b: lab.drop(a, b, "eth0", 50)), late("lan"), LASTS),
    "half of the frames lost on the heartbeat network": (
        both(lambda lab, a, b: lab.drop(a, b, "eth1", 50)),
        late("heartbeat"),
        LASTS,
    ),
    "ports of the nodes isolated from each other": (lambda lab: lab.isolate(*NODES), down("lan", *NODES), LASTS),
    "both reference hosts off": (no_references, reach(0, *NODES), LASTS),
    "both reference hosts off, heartbeat cable out": (
        no_references_and_no_heartbeat_cable,
        every(reach(0, *NODES), down("heartbeat", *NODES)),
        LASTS,
    ),
    "LAN cables of both out": (no_main_cables, every(down("lan", *NODES), reach(0, *NODES)), SHORT),
    "redundant cable of the holder out": (lambda lab: lab.unplug("serv1", "redundant"), no_link("serv1"), SHORT),
    "redundant cable of the other node out": (lambda lab: lab.unplug("serv2", "redundant"), no_link("serv2"), SHORT),
    "switch off": (Lab.switch_off, every(down("lan", *NODES), reach(0, *NODES)), SHORT),
    "one reference host off": (lambda lab: lab.ref_off("ref1"), reach(1, *NODES), SHORT),
    "one reference host out of the holder's reach": (
        lambda lab: lab.drop("ref1", "serv1", "eth0"),
        every(reach(1, "serv1"), reach(2, "serv2")),
        SHORT,
    ),
}
"""What is done, by what it is seen that the nodes have noticed it, and for how long it lasts after that."""


@pytest.mark.parametrize("name", FAULTS)
def test_moves_nothing(lab: Lab, name: str) -> None:
    deed, noticed, seconds = FAULTS[name]
    with fault(lab, f"{name}, {seconds:g} s", AREA, answers=STAYED, quiet=True, copied=False) as day:
        deed(lab)
        lab.wait_for(lambda: noticed(lab), LONG, "the fault to be noticed")
        stays(lab, seconds, **HOME)
        lab.wait_for(lambda: noticed(lab), LONG, "the fault still to be noticed")
        lab.heal()
        day.writer.more()


def test_a_flapping_heartbeat_cable(lab: Lab) -> None:
    name = "heartbeat cable flaps every 2 s for 20 s"
    noticed = down("heartbeat", *NODES)
    with fault(lab, name, AREA, answers=STAYED, quiet=True, copied=False):
        for _ in range(10):
            out = monotonic()
            lab.cut_heartbeat()
            lab.wait_for(lambda: noticed(lab), LONG, "the silence to be noticed")
            sleep(max(0.0, out + 1 - monotonic()))
            lab.mend_heartbeat()
            sleep(1)
