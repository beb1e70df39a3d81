"""Campaign: cables, switches, ports and hosts fail while both nodes live."""

from time import monotonic, sleep

import pytest

from lab.campaign import AWAY_AND_BACK, fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import ADDRESS, events, serves, standby, wait_event, wait_standby

STAYED = ("serv1",)


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


@pytest.mark.parametrize("nics", [("main", "heartbeat"), ("main", "heartbeat", "redundant")])
def test_all_cables_of_the_holder(lab: Lab, nics: tuple[str, ...]) -> None:
    """It is the isolated one, and lets go before the other takes over; nothing comes back up before failback."""
    name = f"{', '.join(nics)} cables of the holder out"
    with fault(lab, name, "network", answers=AWAY_AND_BACK, strays=True) as day:
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
    with fault(lab, "power of the holder, redundant cable of the successor out", "network", strays=True) as day:
        lab.unplug("serv2", "redundant")
        lab.power_off("serv1")
        day.serves("serv2")
        lab.plug("serv2", "redundant")
        day.writer.more()


def test_a_flapping_cable(lab: Lab) -> None:
    """Every 2 s for a minute: one move, and none back before it is stable."""
    with fault(lab, "LAN cable of the holder flaps every 2 s for a minute", "network", answers=AWAY_AND_BACK) as day:
        end = monotonic() + 60
        while monotonic() < end:
            lab.unplug("serv1", "main")
            sleep(1)
            lab.plug("serv1", "main")
            sleep(1)
        ups = [event["node"] for node in NODES for event in events(lab, node, day.began, "address-up")]
        assert ups == ["serv2"] and serves(lab, "serv2", "serv1"), ups


def test_standby_by_the_program_ends_by_itself(lab: Lab) -> None:
    with fault(lab, "LAN cable of the holder out for a moment", "network") as day:
        lab.unplug("serv1", "main")
        sleep(0.4)
        lab.plug("serv1", "main")
        day.writer.more()
    assert not any(standby(lab, node) for node in NODES)
