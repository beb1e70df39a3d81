"""A group handed over by hand: nothing is lost, and a step that fails puts everything back."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from lab.labnet.lab import Lab
from lab.story import (
    ADDRESS,
    LONG,
    OTHER,
    Writer,
    come_home,
    events,
    holds,
    moved,
    must,
    one_at_a_time,
    record,
    serves,
    standby,
    stays,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    wait_told,
    watching,
)

STUBBORN = """#!/bin/sh
# A service that does not stop while a file is there.
[ "$1" != stop ] || [ ! -e /run/stubborn ] || { echo "still busy" >&2; exit 1; }
"""
SERVICES: dict[str, dict[str, str | None] | None] = {
    "stubborn": {
        "home": "serv1",
        "order": "5",
        "run.kind": "command",
        "run.start": "/usr/local/sbin/stubborn, start",
        "run.stop": "/usr/local/sbin/stubborn, stop",
    },
    "data": {"home": "serv1", "run.kind": "none", "mirror.every": "never", "mirror.paths": "/srv/data/"},
}


@pytest.fixture
def two(lab: Lab) -> Lab:
    """The pair with a service that may refuse to stop, and one whose disk is small on serv2."""
    come_home(lab, timeout="20 seconds", services=SERVICES)
    for node in ("serv1", "serv2"):
        put = "cat >/usr/local/sbin/stubborn; chmod 755 /usr/local/sbin/stubborn; mkdir -p /srv/data"
        lab.run(node, ["sh", "-c", put], text_in=STUBBORN)
    lab.sh("serv1", "test -e /srv/data/first || echo first >/srv/data/first")
    lab.sh("serv2", "mountpoint -q /srv/data || mount -t tmpfs -o size=2m small /srv/data")
    return lab


def release(lab: Lab, node: str, to: str, group: str = "serv1") -> str:
    """Hand the group over by hand, on its holder."""
    return lab.run(node, ["release", group, "--to", to], timeout=120).stdout


@contextmanager
def put_back(lab: Lab, why: str) -> Iterator[None]:
    """A hand-over of serv1's group fails because of what the block has done, and everything is as it was."""
    with watching(lab, ADDRESS["serv1"]) as probes:
        began = monotonic()
        yield
        result = lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=120, check=False)
        assert result.returncode == 1 and why in result.stderr, result
        assert len(result.stderr.splitlines()) == 1, result.stderr
        lab.wait_for(lambda: serves(lab, "serv1", "serv1"), LONG, "the view to say that nothing is under way")
        for script in ("nginx", "smbd"):
            lab.run("serv1", [f"/etc/init.d/{script}", "status"])
        assert "address-up" not in moved(lab, began)
        (failed,) = events(lab, "serv1", began, "release-failed")
        assert why in failed["text"]
    assert {spell.node for spell in probes[ADDRESS["serv1"]].summary.spells} == {"serv1"}


# --- that goes well --------------------------------------------------------------------------------------------------


def test_by_hand_there_and_back_without_loss_and_it_stays_where_it_was_put(two: Lab) -> None:
    with watching(two), Writer(two, "move") as writer:
        assert "serv1: serv2 answers" in release(two, "serv1", "serv2")
        wait_serves(two, "serv2", "serv1", "serv2")
        stays(two, 5, serv1="serv2", serv2="serv2")  # longer than hold_down
        assert record(two, "serv2", "serv1")["pinned"] and not standby(two, "serv1")
        writer.more()
        writer.lost_nothing("serv2")
        assert "serv1: serv1 answers" in release(two, "serv2", "serv1")
        wait_home(two)
        writer.more()
    writer.lost_nothing("serv1")
    assert not record(two, "serv1", "serv1")["pinned"]


def test_who_does_not_hold_a_group_neither_releases_nor_takes_it(two: Lab) -> None:
    began = monotonic()
    for words, code, says in (
        (["release", "serv1", "--to", "serv1"], 2, "not one of the other nodes"),
        (["release", "serv1", "--to", "serv2"], 2, "not one of the other nodes"),
        (["release", "serv1"], 77, "release it there"),
        (["takeover", "serv1"], 1, "run `release serv1 --to serv2` there"),
        (["takeover", "serv3"], 2, "no such group"),
    ):
        node = "serv1" if words[-1] == "serv1" and words[-2] == "--to" else "serv2"
        result = two.run(node, words, check=False)
        assert (result.returncode, says in result.stderr) == (code, True), (words, result)
    assert moved(two, began) == []


# --- a step fails ----------------------------------------------------------------------------------------------------


def test_a_service_that_does_not_stop(two: Lab) -> None:
    complaint = "stubborn did not stop: stubborn: stop failed: /usr/local/sbin/stubborn stop: exit 1: still busy"
    with put_back(two, complaint):
        two.sh("serv1", "touch /run/stubborn")
    two.sh("serv1", "rm /run/stubborn")


def test_a_disk_that_is_full_at_the_receiver(two: Lab) -> None:
    with put_back(two, "are free on serv2"):
        two.sh("serv1", "head -c 5M /dev/urandom >/srv/data/large")
    assert two.sh("serv2", "ls -A /srv/data").split() in ([".clusterd", "first"], [])
    two.sh("serv1", "rm /srv/data/large")


def test_a_peer_without_sshd(two: Lab) -> None:
    two.sh("serv2", "/etc/init.d/ssh stop; pkill -x sshd || true")
    try:
        with put_back(two, "serv2 cannot be reached from serv1: ssh: connect to host 192.168.111.2 port 22"):
            pass
    finally:
        two.sh("serv2", "/etc/init.d/ssh start")


def test_a_peer_whose_sshd_hangs(two: Lab) -> None:
    two.sh("serv2", f"pkill -{signal.SIGSTOP} -x sshd")
    try:
        with put_back(two, "serv2 cannot be reached from serv1: "):
            pass
    finally:
        two.sh("serv2", f"pkill -{signal.SIGCONT} -x sshd")


# --- standby by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["serv1", "serv2"])
def test_standby_and_back_by_hand_from_either_node(two: Lab, on: str) -> None:
    with watching(two):
        two.run(on, ["cluster", "standby", "serv2", "--reason", "new disk"], timeout=120)
        wait_serves(two, "serv1", "serv1", "serv2")
        wait_standby(two, "serv2")
        assert holds(two, "serv2")
        if on == "serv1":
            refused = two.run("serv1", ["release", "serv1", "--to", "serv2"], check=False)
            assert refused.returncode == 1 and "in standby, set by a person: new disk" in refused.stderr
            stays(two, 4, serv1="serv1", serv2="serv1")  # longer than hold_down: only a person lifts it
        two.run(on, ["cluster", "unstandby", "serv2"], timeout=60)
        wait_home(two)
    wait_told(two, "new disk")


def test_moved_by_one_command_from_the_node_that_gets_it(two: Lab) -> None:
    with watching(two):
        two.run("serv2", ["cluster", "move", "serv1", "serv2"], timeout=120)
        wait_serves(two, "serv2", "serv1", "serv2")
        said = two.run("serv2", ["cluster", "move", "serv1", "serv2"], timeout=120).stdout
        assert "holds it already" in said
        two.run("serv2", ["cluster", "move", "serv1", "serv1"], timeout=120)
        wait_home(two)


def test_a_node_in_a_persons_standby_acquires_nothing_until_it_is_let_back(home: Lab) -> None:
    home.run("serv2", ["cluster", "standby", "serv2"], timeout=120)
    wait_serves(home, "serv1", "serv1", "serv2")
    with home.probe(ADDRESS["serv1"], http_ms=0) as probe:
        cut = home.power_off("serv1")
        wait_event(home, "serv2", "peer-dead", cut)
        sleep(2)
        must(not probe.answered("serv2", cut), "taken in a person's standby")
        assert holds(home, "serv2")
        refused = home.run("serv2", ["takeover", "serv1"], check=False)
        assert refused.returncode == 77 and "in standby" in refused.stderr
        home.run("serv2", ["cluster", "unstandby", "serv2"], timeout=60)
        wait_serves(home, "serv2", "serv1", "serv2")
        home.power_on("serv1")
        wait_home(home)
    one_at_a_time(probe.summary)


def test_what_a_node_in_standby_still_serves_goes_to_the_peer_as_soon_as_it_is_there(home: Lab) -> None:
    """The last of all: nobody was there to take it when the person said so."""
    home.power_off("serv2")
    wait_serves(home, "serv1", "serv1", "serv2")
    said = home.run("serv1", ["cluster", "standby", "serv1"], timeout=60)
    assert "goes on serving serv1 until another node can take it" in said.stdout
    stays(home, 1, serv1="serv1", serv2="serv1")
    home.power_on(OTHER["serv1"])
    wait_serves(home, "serv2", "serv1", "serv2", seconds=90)
    home.run("serv2", ["cluster", "unstandby", "serv1"], timeout=60)
    wait_home(home)
