"""A fence agent really cuts a node's power: nothing is taken without that, and with it nobody waits for a lease."""

import os
import signal
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from lab.labnet import power
from lab.labnet.lab import Lab
from lab.labnet.plan import BMC_LOGIN, NODES, PDU
from lab.story import (
    ADDRESS,
    LONG,
    come_home,
    conditions,
    epochs,
    events,
    get,
    held,
    mirror,
    must,
    put,
    stays,
    told,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    wait_told,
    watching,
    when,
)

HOME = {"serv1": "serv1", "serv2": "serv2"}
LEASE = 20.0
"""Seconds: far longer than a fenced takeover takes, so that it can be seen which of the two it was."""


def fencing(lab: Lab, delays: dict[str, str] | None = None, **cluster: str) -> None:
    """The pair in order, with a power switch that works, into which both are plugged."""
    nodes: dict[str, dict[str, str | None]] = {name: {"fence.plug": name} for name in NODES}
    for name, delay in (delays or {}).items():
        nodes[name]["fence.delay"] = delay
    options = {"fence.agent": "fence_lab", "fence.ip": PDU, "fence.timeout": "20 seconds", "hold_down": "1 second"}
    conf: dict[str, Any] = {
        "nodes": nodes,
        **options,
        **{key.replace("__", "."): text for key, text in cluster.items()},
    }
    plugged(lab, conf)


def plugged(lab: Lab, conf: dict[str, Any]) -> None:
    """The pair in order with that configuration, and a power switch that works and has been asked nothing yet."""
    lab.pdu()
    come_home(lab, **conf)
    lab.fenced_anew()


def redfish(lab: Lab) -> None:
    """The same with Debian's own agent, and a management controller in each node."""
    name, password = BMC_LOGIN
    conf: dict[str, Any] = {
        "nodes": {node: {"fence.systems_uri": f"/redfish/v1/Systems/{node}"} for node in NODES},
        "fence.agent": "fence_redfish",
        "fence.ip": PDU,
        "fence.username": name,
        "fence.password": password,
        "fence.ssl_insecure": "1",
        "fence.timeout": "20 seconds",
        "fence.action": "reboot",
        "hold_down": "1 second",
        "lease": f"{LEASE:.0f} seconds",
    }
    plugged(lab, conf)


def asked(lab: Lab, action: str) -> list[tuple[str, str]]:
    """Who asked the power switch for that, and for which plug."""
    who = {address: name for name, address in ADDRESS.items()}
    return [(who[each["from"]], each["plug"]) for each in lab.fenced() if each["action"] == action]


def split(lab: Lab) -> None:
    """Neither node hears the other, on any path; both reach the reference hosts, and clients reach both."""
    lab.cut_heartbeat()
    lab.isolate(*NODES)


def hang(lab: Lab, node: str) -> None:
    """Every program of the node stops; its kernel goes on and answers ARP and ping."""
    for pid in power.processes(lab.place.netns(node)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def hang_in_vain(lab: Lab, why: str) -> float:
    """serv1 hangs, and serv2 cannot make sure that it is off: it says why, and takes nothing; returns when it hung."""
    hung = monotonic()
    hang(lab, "serv1")
    failed = wait_event(lab, "serv2", "fence-failed", hung)
    assert why in failed["text"]
    must(not held(lab, "serv2", "serv1") and not events(lab, "serv2", hung, "address-up"), "taken unfenced")
    return hung


def wait_off(lab: Lab, node: str) -> None:
    lab.wait_for(lambda: not lab.is_on(node), LONG, f"{node} to be off")


# --- both are alive, and cannot know it -------------------------------------------------------------------------------


@pytest.mark.parametrize("survivor", NODES)
def test_a_split_in_which_both_reach_the_lan_leaves_one_and_the_delay_says_which(lab: Lab, survivor: str) -> None:
    """Without an agent this is the one case in which two would hold one address."""
    other = "serv2" if survivor == "serv1" else "serv1"
    fencing(lab, {survivor: "20 seconds"})
    before = epochs(lab, "serv2")["serv1"]
    with watching(lab):
        began = monotonic()
        split(lab)
        wait_serves(lab, survivor, *NODES)
        assert not lab.is_on(other)
        assert asked(lab, "off") == [(survivor, other)]
        fenced = wait_event(lab, survivor, "fenced", began)
        assert fenced["subject"] == other
        stays(lab, 1, serv1=survivor, serv2=survivor)
    if survivor == "serv1":
        returns(lab, began, before)


def returns(lab: Lab, began: float, before: int) -> None:
    """serv2, which was fenced, is switched on by hand: it returns in standby, and gets its files and its group."""
    wait_told(lab, "serv2 is off")
    assert len(told(lab, "was switched off by the fence agent")) == 1
    lab.sh("serv1", "echo while it was off >>/var/mail/alice")
    lab.heal()
    with watching(lab) as probes:
        on = monotonic()
        done = lab.run("serv1", ["cluster", "fence", "serv2", "--action", "on"], timeout=60)
        assert done.stdout == "serv2: on\n"
        wait_standby(lab, "serv2")
        entered = wait_event(lab, "serv2", "standby-entered", on)
        assert "serv1 holds serv2" in entered["text"]
        home = wait_event(lab, "serv1", "failback-done", on)
        wait_home(lab)
    spells = [spell for spell in probes[ADDRESS["serv2"]].summary.spells if spell.node == "serv2" and spell.end > on]
    given = wait_event(lab, "serv1", "release-began", on)
    assert min(spell.start for spell in spells) > when(given) and when(home) > when(given)
    assert (lab.text("serv2", "/var/mail/alice") or "").endswith("while it was off\n")
    assert epochs(lab, "serv2")["serv1"] == epochs(lab, "serv2")["serv2"] == before + 2


def test_a_split_without_a_delay_may_cost_both_but_never_makes_two_holders(lab: Lab) -> None:
    """As with any cluster of two: the switch has both requests before it has carried out either."""
    fencing(lab)
    with watching(lab):
        split(lab)
        lab.wait_for(lambda: not all(map(lab.is_on, NODES)), LONG, "one to be off")
        lab.wait_for(lambda: settled(lab), LONG, "the other to be off as well, or to serve both")
        off = [name for name in NODES if not lab.is_on(name)]
        lab.heal()
        lab.power_on(*off)
        wait_home(lab)


def settled(lab: Lab) -> bool:
    on = list(filter(lab.is_on, NODES))
    return not on or all(held(lab, on[0], group) for group in NODES)


def test_who_is_heard_again_before_its_turn_is_not_fenced(lab: Lab) -> None:
    """A cable that was out for two seconds costs nobody the power."""
    fencing(lab, {name: "20 seconds" for name in NODES})
    before = [epochs(lab, group) for group in NODES]
    with watching(lab):
        began = monotonic()
        split(lab)
        for node in NODES:
            wait_event(lab, node, "fence-waits", began)
        lab.heal()
        wait_home(lab)
        stays(lab, 1, **HOME)
    assert lab.fenced() == []
    assert [epochs(lab, group) for group in NODES] == before


# --- one hangs --------------------------------------------------------------------------------------------------------


def test_a_node_that_hangs_is_fenced_and_taken_over_at_once_and_switched_on_again(lab: Lab) -> None:
    lease = 2 * LONG
    fencing(lab, lease=f"{lease:.0f} seconds", fence__action="reboot")
    put(lab, "before.txt", "before it hung\n")
    mirror(lab, "serv1", "smbd")
    with watching(lab) as probes:
        hung = monotonic()
        hang(lab, "serv1")
        up = wait_event(lab, "serv2", "address-up", hung)
        assert when(up) - hung < lease / 2
        assert not events(lab, "serv2", hung, "takeover-held-back")
        wait_event(lab, "serv2", "power-on", hung)
        assert get(lab, "before.txt") == "before it hung\n"
        wait_standby(lab, "serv1")
        must(not probes[ADDRESS["serv1"]].answered("serv1", when(up)), "serv1 answered after it was fenced")
        wait_home(lab)
    assert [each["action"] for each in lab.fenced()] == ["off", "status", "on", "status"]


def test_debians_fence_redfish_cuts_the_power_and_gives_it_back(lab: Lab) -> None:
    """Not an agent of the lab's: that of the package fence-agents, with its own idea of options and exit codes."""
    redfish(lab)
    assert lab.run("serv2", ["cluster", "fence", "serv1"], timeout=LONG).stdout == "serv1: on\n"
    lab.pdu("fails")
    with watching(lab):
        hung = hang_in_vain(lab, "serv1 could not be switched off: fence_redfish: exit 1")
        lab.pdu()
        wait_event(lab, "serv2", "power-on", hung)
        wait_home(lab)
    assert asked(lab, "off") == asked(lab, "on") == [("serv2", "serv1")]


def test_an_agent_that_lies_moves_nothing(lab: Lab) -> None:
    """It says that it is done; its status, and the address that answers, say otherwise."""
    fencing(lab, lease=f"{LEASE:.0f} seconds")
    lab.pdu("lies")
    with watching(lab):
        hang_in_vain(lab, "is not known to be off: the agent said done, and its status says it is on")
        lab.pdu()
        wait_serves(lab, "serv2", *NODES)
    assert not lab.is_on("serv1")


# --- one is dead, and the agent is no help ----------------------------------------------------------------------------


def test_while_the_agent_fails_or_hangs_nothing_is_taken_then_all(lab: Lab) -> None:
    fencing(lab, fence__timeout="5 seconds")
    lab.pdu("fails")
    with watching(lab):
        cut = lab.power_off("serv1")
        failed = wait_event(lab, "serv2", "fence-failed", cut)
        assert "serv1 could not be switched off: fence_lab: exit 1: Failed: outlet does not respond" in failed["text"]
        lab.wait_for(lambda: "fence-failed" in conditions(lab, "serv2"), LONG, "the view to say so")
        shown = lab.run("serv2", ["check_peer"], check=False)
        assert shown.returncode == 2
        lab.pdu("hangs")
        by_hand = lab.run("serv2", ["takeover", "serv1"], check=False, timeout=60)
        assert by_hand.returncode == 1 and "fence_lab: timed out" in by_hand.stderr
        assert lab.run("serv2", ["pgrep", "-f", "fence_lab"], check=False).stdout == ""
        must(not events(lab, "serv2", cut, "address-up") and not held(lab, "serv2", "serv1"), "taken unfenced")
        lab.pdu()
        wait_serves(lab, "serv2", *NODES)
    assert "fence-failed" not in conditions(lab, "serv2")
    wait_told(lab, "serv1 could not be switched off")
    wait_told(lab, "serv2 has taken over serv1")
    assert len(told(lab, "could not make sure that the silent peer is off")) == 1
    assert not told(lab, "This node should have taken a group over and could not")
