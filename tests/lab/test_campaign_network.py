"""Campaign: cables, switches, ports and hosts fail while both nodes live."""

from collections.abc import Callable
from time import monotonic, sleep

import pytest

from lab.campaign import fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES, REFERENCES
from lab.story import ADDRESS, standby, stays, wait_event, wait_standby

AWAY_AND_BACK = ("serv1", "serv2", "serv1")
STAYED = ("serv1",)
HOME = {"serv1": "serv1", "serv2": "serv2"}
LAST = 1.5
"""Seconds that a fault lasts which moves nothing: five times dead_after."""


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


QUIET: dict[str, Callable[[Lab], None]] = {
    "heartbeat cable out": Lab.cut_heartbeat,
    "redundant cable of the holder out": lambda lab: lab.unplug("serv1", "redundant"),
    "redundant cable of the other node out": lambda lab: lab.unplug("serv2", "redundant"),
    "switch off": Lab.switch_off,
    "LAN from the holder to the peer lost": lambda lab: lab.drop("serv1", "serv2", "eth0"),
    "LAN from the peer to the holder lost": lambda lab: lab.drop("serv2", "serv1", "eth0"),
    "heartbeats from the holder to the peer lost": lambda lab: lab.drop("serv1", "serv2", "eth1"),
    "heartbeats from the peer to the holder lost": lambda lab: lab.drop("serv2", "serv1", "eth1"),
    "half of the frames lost on the LAN": both(lambda lab, a, b: lab.drop(a, b, "eth0", 50)),
    "half of the frames lost on the heartbeat network": both(lambda lab, a, b: lab.drop(a, b, "eth1", 50)),
    "ports of the nodes isolated from each other": lambda lab: lab.isolate(*NODES),
    "one reference host off": lambda lab: lab.ref_off("ref1"),
    "both reference hosts off": no_references,
    "one reference host out of the holder's reach": lambda lab: lab.drop("ref1", "serv1", "eth0"),
}
"""Faults that are no reason to move anything."""


@pytest.mark.parametrize("name", QUIET)
def test_moves_nothing(lab: Lab, name: str) -> None:
    with fault(lab, name, "network, nothing moves", answers=STAYED, quiet=True, copied=False) as day:
        QUIET[name](lab)
        stays(lab, LAST, **HOME)
        lab.heal()
        day.writer.more()


def test_both_references_gone_and_the_heartbeat_cable_out(lab: Lab) -> None:
    """The nodes hear each other on the LAN: neither is isolated."""
    name = "both reference hosts off, heartbeat cable out"
    with fault(lab, name, "network, nothing moves", answers=STAYED, quiet=True) as day:
        no_references(lab)
        lab.cut_heartbeat()
        stays(lab, LAST, **HOME)
        day.writer.more()


def test_half_of_all_frames_lost(lab: Lab) -> None:
    """On both networks at once a silence of three datagrams each is no rarity: something may move, nothing be lost."""
    with fault(lab, "half of the frames lost on both networks, 5 s", "network") as day:
        for a, b in (NODES, NODES[::-1]):
            for nic in ("eth0", "eth1"):
                lab.drop(a, b, nic, 50)
        sleep(5)
        lab.heal()
        day.writer.more(1)


def test_the_lan_cable_of_the_holder(lab: Lab) -> None:
    """It reaches fewer hosts: it hands over without loss, on the heartbeat network."""
    with fault(lab, "LAN cable of the holder out", "network", answers=AWAY_AND_BACK) as day:
        lab.unplug("serv1", "main")
        day.serves("serv2")
        wait_standby(lab, "serv1")
        day.writer.more()
    assert not day.unmirrored(), "handed over without loss"


def test_the_lan_cable_of_the_other_node(lab: Lab) -> None:
    with fault(lab, "LAN cable of the other node out", "network", answers=STAYED) as day:
        lab.unplug("serv2", "main")
        day.serves("serv1")
        day.writer.more()


def test_the_lan_cables_of_both(lab: Lab) -> None:
    with fault(lab, "LAN cables of both out", "network, nothing moves", answers=STAYED, quiet=True, copied=False):
        for node in NODES:
            lab.unplug(node, "main")
        stays(lab, LAST, **HOME)


@pytest.mark.parametrize("nics", [("main", "heartbeat"), ("main", "heartbeat", "redundant")])
def test_all_cables_of_the_holder(lab: Lab, nics: tuple[str, ...]) -> None:
    """It is the isolated one, and lets go before the other takes over; nothing comes back up before failback."""
    name = f"{', '.join(nics)} cables of the holder out"
    with fault(lab, name, "network", answers=AWAY_AND_BACK) as day:
        for nic in nics:
            lab.unplug("serv1", nic)
        day.serves("serv2")
        assert ADDRESS["serv1"] not in lab.addresses("serv1")
        day.writer.more()
        plugged = monotonic()
        lab.heal()
        given = wait_event(lab, "serv2", "release-began", plugged)
        day.silent_between("serv1", plugged, given)


def test_both_switches(lab: Lab) -> None:
    """Nobody hears anybody: both let go, and each comes back with its own."""
    with fault(lab, "switch off, heartbeat cable out, 3 s", "network", answers=STAYED) as day:
        lab.switch_off()
        lab.cut_heartbeat()
        sleep(3)
        lab.heal()
        day.writer.more(1)


@pytest.mark.parametrize("source", NODES)
def test_one_way_loss_on_all_paths(lab: Lab, source: str) -> None:
    target = "serv2" if source == "serv1" else "serv1"
    name = f"all frames from {'holder to peer' if source == 'serv1' else 'peer to holder'} lost, 4 s"
    with fault(lab, name, "network") as day:
        for nic in ("eth0", "eth1"):
            lab.drop(source, target, nic)
        sleep(4)
        lab.heal()
        day.writer.more(1)


def test_all_paths_lose_the_way_to_the_references_too(lab: Lab) -> None:
    """The holder is cut off from everybody but the client: it is isolated, and the client may not be answered twice."""
    with fault(lab, "holder sees the client only", "network") as day:
        lab.cut_heartbeat()
        for other in ("serv2", "ref1", "ref2"):
            lab.drop(other, "serv1", "eth0")
        sleep(3)
        lab.heal()
        day.writer.more(1)


def test_the_redundant_cable_of_the_successor(lab: Lab) -> None:
    """The other half of the pair fails as well: nothing answers until the cable is in again, and nothing is lost."""
    with fault(lab, "power of the holder, redundant cable of the successor out", "network") as day:
        lab.unplug("serv2", "redundant")
        lab.power_off("serv1")
        day.serves("serv2")
        lab.plug("serv2", "redundant")
        day.writer.more()


def test_a_flapping_cable(lab: Lab) -> None:
    """Every 2 s for a minute: no more than one move there, and none back before it is stable."""
    with fault(lab, "LAN cable of the holder flaps every 2 s for a minute", "network", answers=AWAY_AND_BACK) as day:
        end = monotonic() + 60
        while monotonic() < end:
            lab.unplug("serv1", "main")
            sleep(1)
            lab.plug("serv1", "main")
            sleep(1)
        assert day.moved().count("handed-over") + day.moved().count("address-up") <= 2, day.moved()


def test_a_flapping_heartbeat_cable(lab: Lab) -> None:
    name = "heartbeat cable flaps every 2 s for 20 s"
    with fault(lab, name, "network, nothing moves", answers=STAYED, quiet=True, copied=False):
        for _ in range(10):
            lab.cut_heartbeat()
            sleep(1)
            lab.mend_heartbeat()
            sleep(1)


def test_standby_by_the_program_ends_by_itself(lab: Lab) -> None:
    with fault(lab, "LAN cable of the holder out for a moment", "network") as day:
        lab.unplug("serv1", "main")
        sleep(0.4)
        lab.plug("serv1", "main")
        day.writer.more()
    assert not any(standby(lab, node) for node in NODES)
