"""The watchdog dies, hangs, is started twice, hears what nobody should say: the address never answers twice."""

import json
import os
import signal
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep, time

from clusterd import heartbeat
from lab.labnet import power
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
    names,
    pids,
    standby,
    stays,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    wait_told,
    watching,
)

HOME = {"serv1": "serv1", "serv2": "serv2"}


def kill(lab: Lab, node: str, number: int, *targets: int) -> None:
    lab.run(node, ["kill", f"-{number}", *map(str, targets)])


def loop_of(lab: Lab, node: str) -> int:
    """The process that does the watching: the child of the one that does nothing else."""
    return pids(lab, node, "watchdog")[1]


# --- killed ----------------------------------------------------------------------------------------------------------


def test_a_killed_loop_is_back_and_nothing_moved(home: Lab) -> None:
    parent, loop = pids(home, "serv1", "watchdog")
    with watching(home) as probes:
        killed = monotonic()
        kill(home, "serv1", signal.SIGKILL, loop)
        restarted = wait_event(home, "serv1", "watchdog-restarted", killed)
        assert "SIGKILL" in restarted["text"]
        home.wait_for(lambda: len(pids(home, "serv1", "watchdog")) == 2, LONG, "the loop")
        stays(home, 3, **HOME)  # longer than the lease
    assert pids(home, "serv1", "watchdog")[0] == parent and loop_of(home, "serv1") != loop
    assert {spell.node for spell in probes[ADDRESS["serv1"]].summary.spells} == {"serv1"}
    assert moved(home, killed) == []


def test_a_loop_whose_parent_is_killed_becomes_a_watchdog_and_nothing_moved(home: Lab) -> None:
    parent, _ = pids(home, "serv1", "watchdog")
    with watching(home):
        killed = monotonic()
        kill(home, "serv1", signal.SIGKILL, parent)
        wait_event(home, "serv1", "watchdog-started", killed)
        home.wait_for(lambda: len(pids(home, "serv1", "watchdog")) == 2, LONG, "parent and loop")
        stays(home, 3, **HOME)
    assert parent not in pids(home, "serv1", "watchdog")
    assert moved(home, killed) == []


def test_a_second_watchdog_ends_at_once(home: Lab) -> None:
    before = pids(home, "serv1", "watchdog")
    assert home.run("serv1", ["watchdog"], timeout=LONG).returncode == 0
    assert pids(home, "serv1", "watchdog") == before


def test_sighup_starts_it_anew_and_nothing_moved(home: Lab) -> None:
    parent, loop = pids(home, "serv1", "watchdog")
    with watching(home):
        asked = monotonic()
        kill(home, "serv1", signal.SIGHUP, parent)
        wait_event(home, "serv1", "watchdog-started", asked)
        home.wait_for(lambda: len(pids(home, "serv1", "watchdog")) == 2, LONG, "the loop")
        stays(home, 3, **HOME)
    assert pids(home, "serv1", "watchdog")[0] == parent and loop_of(home, "serv1") != loop
    assert moved(home, asked) == []


def test_without_a_watchdog_the_kernel_lets_go_the_peer_takes_over_and_cron_brings_it_back(home: Lab) -> None:
    rest = 60 - time() % 60
    if rest < 15:
        sleep(rest + 3)  # not at cron's minute, or within the lease it would be back and nothing move
    with watching(home) as probes:
        killed = monotonic()
        kill(home, "serv1", signal.SIGKILL, *pids(home, "serv1", "watchdog"))
        wait_serves(home, "serv2", "serv1", "serv2")
        assert ADDRESS["serv1"] not in home.addresses("serv1")
        taken = monotonic()
        wait_event(home, "serv1", "watchdog-started", taken, seconds=90)
        wait_standby(home, "serv1")
        wait_event(home, "serv2", "release-began", taken)
        must(not probes[ADDRESS["serv1"]].answered("serv1", taken), "serv1 answered before failback")
        wait_home(home)
    last = max(event["epoch"] for node in NODES for event in events(home, node, killed, "address-up"))
    assert epochs(home, "serv1") == {"serv1": last, "serv2": last}
    assert "failback-done" in names(home, "serv2", taken)


# --- stopped ---------------------------------------------------------------------------------------------------------


@contextmanager
def stopped(pids_on_host: list[int]) -> Iterator[None]:
    """These processes do nothing, while their kernel goes on."""
    for pid in pids_on_host:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids_on_host):
            os.kill(pid, signal.SIGCONT)


def test_a_pause_shorter_than_the_lease_moves_nothing(home: Lab) -> None:
    with watching(home):
        paused = monotonic()
        for node in NODES:
            loop = loop_of(home, node)
            kill(home, node, signal.SIGSTOP, loop)
            sleep(0.8)
            kill(home, node, signal.SIGCONT, loop)
            sleep(1)
        stays(home, 2, **HOME)
    assert moved(home, paused) == []


def test_a_node_that_hangs_is_taken_over_when_its_lease_has_ended_and_stays_away(home: Lab) -> None:
    with watching(home) as probes:
        hung = monotonic()
        with stopped(power.processes(home.place.netns("serv1"))):
            wait_event(home, "serv2", "takeover-held-back", hung)
            wait_serves(home, "serv2", "serv1", "serv2")
            assert ADDRESS["serv1"] not in home.addresses("serv1")
            sleep(1)
            goes_on = monotonic()
        lost = wait_event(home, "serv1", "released-lost", goes_on)
        assert lost["holder"] == "serv2"
        wait_standby(home, "serv1")
        wait_event(home, "serv2", "release-began", goes_on)
        must(not probes[ADDRESS["serv1"]].answered("serv1", goes_on), "serv1 answered before failback")
        wait_home(home)


# --- words that nobody should say ------------------------------------------------------------------------------------


def capture(lab: Lab, node: str, nic: str) -> bytes:
    """A datagram of the peer's, as it came to the node."""
    raw = lab.sh(node, f"tcpdump -i {nic} -Q in -c 1 -U -w - udp dst port 694 2>/dev/null | base64 -w0", timeout=LONG)
    frame = b64decode(raw)[40:]
    header = 14 + (40 if frame[12:14] == b"\x86\xdd" else (frame[14] & 15) * 4)
    return frame[header + 8 :]


def test_words_that_are_forged_replayed_cut_or_strange_are_counted_and_move_nothing(home: Lab) -> None:
    key = (home.text("serv1", "/etc/cluster.d/key") or "").strip().encode()
    old, crossover = capture(home, "serv1", "eth0"), capture(home, "serv1", "eth1")
    said = json.loads(old[41:])
    claim = {name: [99, "serv2", True, *rest] for name, (_, _, _, *rest) in said["groups"].items()}
    grab = json.dumps(said | {"groups": claim, "sequence": said["sequence"] + 10**6}).encode()
    stranger = json.dumps(said | {"node": "serv9"}).encode()
    words = {
        "wrong key": heartbeat.seal(grab, "lan", b"another key"),
        "of another path": crossover,
        "truncated": old[:-7],
        "very short": old[:20],
        "no word at all": bytes(range(256)) * 5,
        "a stranger's": heartbeat.seal(stranger, "lan", key),
        "replayed": old,
        "empty": b"",
    }
    before = {group: epochs(home, group) for group in NODES}
    sleep(6)  # a word that is only some seconds old may have been late
    began = monotonic()
    with watching(home):
        for data in words.values():
            script = f"import socket; s = socket.socket(2, 2); s.sendto({data!r}, ('{ADDRESS['serv1']}', 694))"
            home.run("client", ["python3", "-c", script])
        wanted = {"signature": 3, "short": 1, "foreign": 1, "stranger": 1, "replayed": 1}
        home.wait_for(lambda: counted(home, wanted), LONG, f"the counts {wanted}")
        wait_event(home, "serv1", "strangers", began)
        stays(home, 1.5, **HOME)
    assert moved(home, began) == []
    assert {group: epochs(home, group) for group in NODES} == before
    assert all(not standby(home, node) and not conditions(home, node) for node in NODES)
    wait_told(home, "datagrams were not believed")


def counted(lab: Lab, wanted: dict[str, int]) -> bool:
    rejected = (lab.view("serv1") or {})["rejected"]
    return all(rejected.get(reason, 0) >= count for reason, count in wanted.items())
