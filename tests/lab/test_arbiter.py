"""Groups that are held by a lease on a real etcd cluster: one holder, whatever is split, stopped or switched off."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest

from lab import story
from lab.labnet.etcd import ENDPOINTS, HOSTS, Etcd
from lab.labnet.kernels import Kernels
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import (
    ADDRESS,
    LONG,
    conditions,
    epochs,
    events,
    moved,
    must,
    stays,
    wait_event,
    wait_home,
    wait_serves,
    watching,
)

TTL = 5.0
CONF: dict[str, Any] = {
    "hold_down": "1 second",
    "arbiter.kind": "etcd",
    "arbiter.endpoints": ", ".join(ENDPOINTS),
    "arbiter.ttl": f"{TTL:g} seconds",
    "nodes": {f"serv{number}": {"main.admin_address": f"10.1.0.1{number}/24"} for number in (1, 2)},
}
ONE_HALF, OTHER_HALF = ("serv1", "ref1"), ("serv2", "ref2", "client")


@pytest.fixture
def etcd(lab: Lab) -> Etcd:
    """The three members; they run on from test to test, and what a test has ended is started again."""
    return Etcd(lab)


def begin(lab: Lab, etcd: Etcd, **conf: Any) -> None:
    """Both at home, each with a grant of its own group, and mirrored: or what only a dead node has keeps its group from
    going home by itself.
    """
    story.come_home(lab, ready=etcd.start, **{**CONF, **conf})
    lab.wait_for(lambda: etcd.claims() == {"serv1": "serv1", "serv2": "serv2"}, LONG, "both groups to be granted")
    story.mirror(lab, "serv2", "mailspool")


@contextmanager
def never_two(lab: Lab) -> Iterator[None]:
    """At no time have two nodes' kernels the same address, nor does a client see two answer."""
    kernels = Kernels(lab)
    with watching(lab, http=False), kernels:
        yield
    for address in ADDRESS.values():
        assert kernels.spells[address], "the monitors have heard nothing"
        must(not kernels.together(address), address, kernels.together(address))


def split(lab: Lab) -> None:
    """Two halves of the LAN, each with a reference host, and no heartbeat between the nodes."""
    lab.cut_heartbeat()
    for one in ONE_HALF:
        for other in OTHER_HALF:
            lab.drop(one, other, "eth0")
            lab.drop(other, one, "eth0")


def lost(lab: Lab, *nodes: str) -> bool:
    """Whether these nodes' watchdogs say that the arbiter does not answer."""
    return all("arbiter-lost" in conditions(lab, node) for node in nodes)


def holds_address(lab: Lab, node: str, group: str) -> bool:
    """Whether the node's kernel has the group's address."""
    return node in lab.holders(ADDRESS[group])


def test_a_takeover_waits_for_the_lease_of_the_dead(lab: Lab, etcd: Etcd) -> None:
    begin(lab, etcd, **{"arbiter.ttl": "10 seconds"})
    with watching(lab, http=False):
        cut = lab.power_off("serv1")
        wait_serves(lab, "serv2", "serv1", "serv2")
        up = wait_event(lab, "serv2", "address-up", cut)
        assert story.when(up) - cut > 5  # it had been renewed lately
        assert etcd.claims() == {"serv1": "serv2", "serv2": "serv2"}
        lab.power_on("serv1")
        wait_home(lab)
    assert etcd.claims() == {"serv1": "serv1", "serv2": "serv2"}


def test_a_split_with_a_reference_host_in_each_half_has_one_holder(lab: Lab, etcd: Etcd) -> None:
    """The exception that is left without fence agent and arbiter."""
    begin(lab, etcd)
    before = epochs(lab, "serv1")
    with never_two(lab):
        began = monotonic()
        split(lab)
        wait_serves(lab, "serv2", "serv1", "serv2")
        must(not holds_address(lab, "serv1", "serv1"), "two nodes have the address")
        assert events(lab, "serv1", began, "suspended")
        assert "arbiter-lost" in conditions(lab, "serv1")
        lab.heal()
        wait_home(lab)
    after = epochs(lab, "serv1")
    assert after["serv1"] == after["serv2"] > before["serv1"]


def test_the_half_without_a_majority_takes_nothing(lab: Lab, etcd: Etcd) -> None:
    """serv2 dies where serv1 has a reference host, and no majority of etcd."""
    begin(lab, etcd)
    with never_two(lab):
        began = monotonic()
        split(lab)
        lab.power_off("serv2")
        lab.wait_for(lambda: not holds_address(lab, "serv1", "serv1"), LONG, "serv1 to let go")
        lab.wait_for(lambda: lost(lab, "serv1"), LONG, "serv1 to tell")
        must(not events(lab, "serv1", began, "takeover-began"), "taken without a majority")
        lab.heal()
        wait_serves(lab, "serv1", "serv1", "serv2")
    lab.power_on("serv2")
    wait_home(lab)


def test_without_a_majority_everybody_lets_go_and_resumes(lab: Lab, etcd: Etcd) -> None:
    begin(lab, etcd)
    before = epochs(lab, "serv1"), epochs(lab, "serv2")
    with never_two(lab):
        etcd.signal("KILL", "ref1", "ref2")
        lab.wait_for(lambda: lost(lab, *NODES), LONG, "both to tell")
        lab.wait_for(lambda: not any(lab.holders(ADDRESS[group]) for group in NODES), LONG, "both to let go")
        etcd.start()
        wait_home(lab)
    assert (epochs(lab, "serv1"), epochs(lab, "serv2")) == before
    story.wait_told(lab, "the arbiter, etcd, answers")


def test_with_failsafe_nothing_moves_until_a_peer_is_not_heard(lab: Lab, etcd: Etcd) -> None:
    begin(lab, etcd, **{"arbiter.failsafe": "yes"})
    began = monotonic()
    with never_two(lab):
        etcd.signal("STOP", "ref1", "client")
        lab.wait_for(lambda: all(view_of(lab, node)["good"] == 0 for node in NODES), LONG, "the leases to end")
        stays(lab, 1.0, serv1="serv1", serv2="serv2")
        etcd.signal("CONT", "ref1", "client")
        lab.wait_for(lambda: all(view_of(lab, node)["good"] > 0 for node in NODES), LONG, "new leases")
        assert moved(lab, began) == []
        etcd.signal("STOP", "ref1", "client")
        lab.wait_for(lambda: all(view_of(lab, node)["good"] == 0 for node in NODES), LONG, "the leases to end")
        lab.power_off("serv2")
        lab.wait_for(lambda: not holds_address(lab, "serv1", "serv1"), LONG, "serv1 to let go")
        etcd.signal("CONT", "ref1", "client")
        wait_serves(lab, "serv1", "serv1", "serv2")
    lab.power_on("serv2")


def test_one_member_less_moves_nothing(lab: Lab, etcd: Etcd) -> None:
    """One of them is the leader: the others elect another one, which takes a second or two."""
    begin(lab, etcd, **{"arbiter.ttl": "20 seconds"})
    began = monotonic()
    for host in HOSTS:
        etcd.signal("STOP", host)
        stays(lab, 2.0, serv1="serv1", serv2="serv2")
        etcd.signal("CONT", host)
        lab.wait_for(lambda host=host: etcd.healthy(host), LONG, f"{host} to be back")  # type: ignore[misc]
    assert moved(lab, began) == []


def test_a_holder_that_is_stopped_is_silent_before_another_has_the_address(lab: Lab, etcd: Etcd) -> None:
    begin(lab, etcd)
    with never_two(lab):
        stopped = story.pids(lab, "serv1", "watchdog")
        lab.sh("serv1", f"kill -STOP {' '.join(map(str, stopped))}")
        wait_serves(lab, "serv2", "serv1", "serv2")
        lab.sh("serv1", f"kill -CONT {' '.join(map(str, stopped))}")
        wait_home(lab)


def test_a_node_that_alone_has_lost_the_arbiter_hands_over(lab: Lab, etcd: Etcd) -> None:
    """It has let go of the address by then, but not of the files: nothing is lost."""
    begin(lab, etcd)
    with never_two(lab):
        began = monotonic()
        lab.sh("serv1", "iptables -I OUTPUT -p tcp --dport 2379 -j DROP")
        wait_serves(lab, "serv2", "serv1", "serv2")
        assert events(lab, "serv1", began, "handed-over")
        lab.sh("serv1", "iptables -F OUTPUT")
        wait_home(lab)


def test_a_planned_move_does_not_wait_for_the_end_of_the_lease(lab: Lab, etcd: Etcd) -> None:
    """Nor does a watchdog that starts again need a new one. All waits here are much shorter than the lease."""
    begin(lab, etcd, **{"arbiter.ttl": "5 minutes"})
    with never_two(lab):
        lab.run("serv1", ["release", "serv1"])
        wait_serves(lab, "serv2", "serv1", "serv2")
        _, loop = story.pids(lab, "serv2", "watchdog")
        lab.sh("serv2", f"kill -KILL {loop}")
        lab.run("serv2", ["release", "serv1", "--to", "serv1"])
        wait_home(lab)
    assert etcd.claims() == {"serv1": "serv1", "serv2": "serv2"}


def test_both_nodes_boot_into_their_groups(lab: Lab, etcd: Etcd) -> None:
    begin(lab, etcd)
    for node in NODES:
        lab.power_off(node)
    lab.power_on(*NODES)
    wait_home(lab)
    assert etcd.claims() == {"serv1": "serv1", "serv2": "serv2"}
    shown = lab.run("serv1", ["check_peer"]).stdout
    assert "etcd answers" in shown, shown


def view_of(lab: Lab, node: str) -> dict[str, Any]:
    """What the node's view says of the arbiter."""
    view = lab.view(node)
    return dict(view["arbiter"]) if view else {"good": -1}
