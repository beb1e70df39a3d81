"""Booting, in every order and after every kind of end: nobody takes what another may have, and all come home."""

from time import monotonic, sleep

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import (
    ADDRESS,
    LONG,
    OTHER,
    SHARE,
    epochs,
    events,
    get,
    holds,
    kept,
    mirror,
    must,
    put,
    record,
    standby,
    told,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    wait_told,
    watching,
    when,
)

WAIT_FOR_PEER = 5.0
"""Seconds, of the lab's configuration."""


def cut_both(lab: Lab) -> None:
    for node in NODES:
        lab.power_off(node)


def test_both_cut_and_booted_at_once_hold_their_own(home: Lab) -> None:
    before = epochs(home, "serv1"), epochs(home, "serv2")
    with watching(home):
        cut_both(home)
        began = monotonic()
        home.power_on(*NODES)
        wait_home(home)
    for number, node in enumerate(NODES):
        assert not events(home, node, began, "takeover-done"), "that would be news"
        assert epochs(home, node)[node] == before[number][node] + 1


@pytest.mark.parametrize("first", NODES)
def test_both_cut_and_booted_with_a_gap_the_first_waits_and_then_takes_its_own_only(home: Lab, first: str) -> None:
    with watching(home):
        cut_both(home)
        booted = monotonic()
        home.power_on(first)
        wait_serves(home, first, first)
        started = when(wait_event(home, first, "watchdog-started", booted))
        up = when(wait_event(home, first, "address-up", booted))
        assert up - started >= WAIT_FOR_PEER
        sleep(1)
        assert holds(home, first, first), "start_alone = home"
        home.power_on(OTHER[first])
        wait_home(home)


def test_alone_since_its_boot_it_serves_again_after_a_cut_of_its_cable(home: Lab) -> None:
    """The other one is away for repair: it was never heard, so it is neither heard again, nor known to be dead."""
    with watching(home):
        cut_both(home)
        home.power_on("serv1")
        wait_serves(home, "serv1", "serv1")
        before, cut = epochs(home, "serv1")["serv1"], monotonic()
        home.unplug("serv1", "main")
        wait_event(home, "serv1", "suspended", cut)
        plugged = monotonic()
        home.plug("serv1", "main")
        wait_event(home, "serv1", "address-up", plugged)
        wait_serves(home, "serv1", "serv1")
        assert epochs(home, "serv1")["serv1"] == before + 1
        home.power_on("serv2")
        wait_home(home)


def test_what_went_to_the_other_before_both_were_cut_waits_for_it(home: Lab) -> None:
    """serv1 was back, in standby, when both lost their power: it knows who has the latest data."""
    home.power_off("serv1")
    wait_serves(home, "serv2", "serv1", "serv2")
    put(home, "latest.txt", "written on serv2\n")
    home.power_on("serv1")
    wait_standby(home, "serv1")
    home.wait_for(lambda: record(home, "serv1", "serv1")["holder"] == "serv2", LONG, "serv1 to know who has it")
    cut_both(home)
    with watching(home):
        alone = monotonic()
        home.power_on("serv1")
        wait_event(home, "serv1", "watchdog-started", alone)
        sleep(WAIT_FOR_PEER + 2)
        assert holds(home, "serv1") and standby(home, "serv1")
        home.power_on("serv2")
        wait_home(home)
    assert get(home, "latest.txt") == "written on serv2\n"
    done = events(home, "serv2", alone)
    assert [event["group"] for event in done if event["event"] == "release-began"] == ["serv1"]


def test_what_a_node_does_not_know_is_found_listed_and_kept(home: Lab) -> None:
    """serv1 was dead when serv2 wrote, and is alone when it returns: it takes its group as start_alone says.

    Nothing that serv2 wrote meanwhile is lost: it is found when serv2 is back.
    """
    put(home, "known.txt", "first\n")
    mirror(home, "serv1", "smbd")
    home.power_off("serv1")
    wait_serves(home, "serv2", "serv1", "serv2")
    put(home, "known.txt", "second, on serv2\n")
    put(home, "unknown.txt", "only on serv2\n")
    home.power_off("serv2")
    with watching(home):
        home.power_on("serv1")
        wait_serves(home, "serv1", "serv1")
        put(home, "known.txt", "third, on serv1\n")
        put(home, "other.txt", "on serv1\n")
        home.power_on("serv2")
        wait_home(home)
    mirror(home, "serv1", "smbd")
    assert get(home, "known.txt") == "third, on serv1\n" and get(home, "other.txt") == "on serv1\n"
    for name, text in (("known.txt", "second, on serv2\n"), ("unknown.txt", "only on serv2\n")):
        must(text in [home.text("serv2", path) for path in kept(home, "serv2", name)], name, "is not kept")
        assert home.text("serv2", f"{SHARE}/{name}") == home.text("serv1", f"{SHARE}/{name}")
    wait_told(home, "never mirrored")
    assert any("unknown.txt" in mail and "known.txt" in mail for mail in told(home, "never mirrored"))


def test_shut_down_in_order_one_after_the_other_and_booted_again(home: Lab) -> None:
    with watching(home) as probes:
        home.shutdown("serv2")
        wait_serves(home, "serv1", "serv1", "serv2")
        home.shutdown("serv1")
        booted = monotonic()
        home.power_on("serv1")
        wait_serves(home, "serv1", "serv1")
        home.power_on("serv2")
        wait_home(home)
        assert probes[ADDRESS["serv2"]].answered("serv2", booted)
