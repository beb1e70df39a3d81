"""Cables, switches and hosts fail, and the nodes live: whose network it is decides, and unsure is not dead."""

from time import monotonic

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import (
    ADDRESS,
    LONG,
    SHARE,
    Writer,
    at_home,
    conditions,
    epochs,
    events,
    mirror,
    moved,
    must,
    names,
    standby,
    stays,
    wait_answers,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    wait_told,
    watching,
)

HOME = {"serv1": "serv1", "serv2": "serv2"}


def test_the_node_that_reaches_fewer_hosts_hands_over_without_loss_and_gets_its_group_back(home: Lab) -> None:
    with watching(home) as probes, Writer(home, "cable") as writer:
        pulled = monotonic()
        home.unplug("serv1", "main")
        wait_serves(home, "serv2", "serv1", "serv2")
        wait_standby(home, "serv1")
        done = names(home, "serv1", pulled)
        assert "release-began" in done and "handed-over" in done
        # serv1 is heard on the heartbeat network all the time: nobody took it for dead.
        assert "peer-dead" not in names(home, "serv2", pulled)
        home.wait_for(lambda: probes[ADDRESS["serv1"]].so_far().http_nodes[-1] == "serv2", LONG, "serv2 to answer")
        stays(home, 2, serv1="serv2", serv2="serv2")
        writer.more()
        plugged = monotonic()
        home.plug("serv1", "main")
        wait_event(home, "serv2", "failback-done", plugged)
        wait_home(home)
        writer.more()
    writer.lost_nothing("serv1")
    assert not events(home, "serv2", pulled, "unmirrored-found")


def test_a_broken_heartbeat_cable_moves_nothing_and_is_told(home: Lab) -> None:
    with watching(home):
        cut = monotonic()
        home.cut_heartbeat()
        for node in NODES:
            event = wait_event(home, node, "path-down", cut)
            assert event["subject"].endswith("/heartbeat")
        stays(home, 2, **HOME)
        mended = monotonic()
        home.mend_heartbeat()
        for node in NODES:
            wait_event(home, node, "path-up", mended)
        wait_home(home)
    assert moved(home, cut) == []
    wait_told(home, "is not heard on heartbeat")


def test_passes_and_handover_go_over_the_lan_while_the_heartbeat_cable_is_broken(home: Lab) -> None:
    home.cut_heartbeat()
    home.wait_for(lambda: "path-down" in conditions(home, "serv1"), LONG, "the silence to be noticed")
    home.sh("serv1", f"echo by way of the LAN >{SHARE}/detour.txt")
    mirror(home, "serv1", "smbd")
    assert home.text("serv2", f"{SHARE}/detour.txt") == "by way of the LAN\n"


def test_a_node_without_any_network_lets_go_by_itself_and_never_answers_before_failback(home: Lab) -> None:
    with watching(home) as probes:
        pulled = monotonic()
        home.cut_heartbeat()
        home.unplug("serv1", "main")
        out = monotonic()
        wait_serves(home, "serv2", "serv1", "serv2")
        home.wait_for(lambda: ADDRESS["serv1"] not in home.addresses("serv1"), LONG, "serv1 to let go")
        assert {"suspended", "isolated"} <= set(names(home, "serv1", pulled))
        stays(home, 1, serv1="serv2", serv2="serv2")
        plugged = monotonic()
        home.plug("serv1", "main")
        home.mend_heartbeat()
        lost = wait_event(home, "serv1", "released-lost", plugged)
        assert lost["holder"] == "serv2"
        wait_standby(home, "serv1")
        wait_event(home, "serv2", "release-began", plugged)
        must(not probes[ADDRESS["serv1"]].answered("serv1", out + 0.5), "serv1 answered before failback")
        wait_home(home)
    assert home.sh("serv1", "pgrep -c smbd; pgrep -c nginx").split()[0] != "0"


def test_a_stranger_who_answers_for_the_address_holds_the_takeover_back(home: Lab) -> None:
    home.sh("ref2", f"ip addr add {ADDRESS['serv1']}/32 dev eth0")
    try:
        with home.probe(ADDRESS["serv1"], icmp_ms=20, http_ms=0) as probe:
            cut = home.power_off("serv1")
            held_back = wait_event(home, "serv2", "takeover-held-back", cut)
            assert held_back["subject"] == "serv1"
            assert "takeover-held-back" in conditions(home, "serv2")
            stays(home, 2, serv2="serv2")
            assert ADDRESS["serv1"] not in home.addresses("serv2")
            must(not probe.answered("serv2", cut), "serv2 answered besides a stranger")
            home.sh("ref2", f"ip addr del {ADDRESS['serv1']}/32 dev eth0")
            wait_serves(home, "serv2", "serv1", "serv2")
            wait_answers(home, probe, "serv2", cut)
        must(not probe.summary.double, probe.summary.text())
    finally:
        home.sh("ref2", f"ip addr del {ADDRESS['serv1']}/32 dev eth0 2>/dev/null || true")
    assert events(home, "serv2", cut, "takeover-done")
    home.power_on("serv1")
    wait_home(home)


def test_in_the_end_both_know_the_same_epochs(home: Lab) -> None:
    for group in NODES:
        assert len(set(epochs(home, group).values())) == 1
    assert at_home(home) and not any(standby(home, node) for node in NODES)
