"""Campaign: programs are killed, or stopped and go on later, at bad moments."""

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic, sleep

import pytest

from lab.campaign import Day, at, fault
from lab.labnet import power
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import ADDRESS, LONG, SHARE, must, pids, wait_event

AWAY_AND_BACK = ("serv1", "serv2", "serv1")
SLOW: dict[str, dict[str, str | None] | None] = {"smbd": {"mirror.bandwidth": "1500", "mirror.whole_file": "yes"}}


def kill(lab: Lab, node: str, pattern: str) -> Callable[[], None]:
    """What kills every process of the node whose command line matches; at least one."""
    return lambda: killed(lab, node, pattern)


def killed(lab: Lab, node: str, pattern: str) -> None:
    """Kill every process of the node whose command line matches; at least one."""
    lab.run(node, ["pkill", "-KILL", "-f", pattern])


def script(name: str) -> str:
    """What matches the command line of one of the scripts."""
    return rf"^\S*python\S* \S*/{name}( |$)"


# --- killed ----------------------------------------------------------------------------------------------------------


def test_the_watchdogs_loop(lab: Lab) -> None:
    with fault(lab, "watchdog's loop", "SIGKILL", answers=("serv1",), quiet=True) as day:
        for _ in range(3):
            lab.run("serv1", ["kill", "-KILL", str(pids(lab, "serv1", "watchdog")[1])])
            lab.wait_for(lambda: len(pids(lab, "serv1", "watchdog")) == 2, LONG, "the loop to be back")
        day.writer.more()


def test_the_watchdogs_parent(lab: Lab) -> None:
    with fault(lab, "watchdog's supervising parent", "SIGKILL", answers=("serv1",), quiet=True) as day:
        old = pids(lab, "serv1", "watchdog")[0]
        lab.run("serv1", ["kill", "-KILL", str(old)])
        lab.wait_for(lambda: len(pids(lab, "serv1", "watchdog")) == 2, LONG, "both to be back")
        assert old not in pids(lab, "serv1", "watchdog")
        day.writer.more()


def test_the_watchdog_and_its_parent(lab: Lab) -> None:
    """The lease ends, the peer takes over; cron's next minute is not waited for."""
    with fault(lab, "watchdog and its parent; cron brings it back", "SIGKILL", answers=AWAY_AND_BACK) as day:
        lab.run("serv1", ["pkill", "-KILL", "-x", "cron"])
        killed(lab, "serv1", script("watchdog"))
        day.serves("serv2")
        assert ADDRESS["serv1"] not in lab.addresses("serv1")
        lab.sh("serv1", "/etc/init.d/cron start; (watchdog >/dev/null 2>&1 &)")


@pytest.mark.parametrize("daemon", ["cron", "sshd", "rsyslogd", "smbd"])
def test_a_daemon_of_the_holder(lab: Lab, daemon: str) -> None:
    with fault(lab, f"{daemon} of the holder", "SIGKILL", answers=("serv1",), quiet=True) as day:
        lab.run("serv1", ["pkill", "-KILL", "-x", daemon])
        sleep(1)
        init = {"cron": "cron", "sshd": "ssh", "rsyslogd": "rsyslog", "smbd": "smbd"}[daemon]
        lab.sh("serv1", f"/etc/init.d/{init} start")
        day.another_pass()


@pytest.mark.parametrize("step", ["takeover-began", "address-up", "service-started"])
def test_takeover(lab: Lab, step: str) -> None:
    with fault(lab, f"takeover, at its {step}", "SIGKILL", answers=AWAY_AND_BACK) as day:
        with at(lab, "serv2", step, kill(lab, "serv2", script("takeover"))):
            lab.power_off("serv1")
        day.serves("serv2")
        day.writer.more()


def test_the_other_scripts_at_random_moments(lab: Lab) -> None:
    """What only looks, tidies up or sets the clock may end anywhere: nothing moves, and the next one does its work."""
    chance = random.Random(1999)
    again = {
        "check_peer": ["check_peer"],
        "timesync": ["timesync", "--dry-run"],
        "purge_backups": ["purge_backups", "--purge"],
        "cluster": ["cluster", "status"],
    }
    name = f"{', '.join(again)}, three times each at random moments"
    with fault(lab, name, "SIGKILL", answers=("serv1",), quiet=True) as day:
        for argv in [*again.values()] * 3:
            with day.running(lab.argv("serv1", argv)) as process:
                sleep(chance.uniform(0.02, 0.6))
                lab.run("serv1", ["pkill", "-KILL", "-f", script(argv[0])], check=False)
                process.wait(LONG)
        for argv in again.values():
            lab.run("serv1", argv, timeout=LONG)
        day.another_pass()


@pytest.mark.parametrize("step", ["release-began", "service-stopped"])
def test_release(lab: Lab, step: str) -> None:
    with (
        fault(lab, f"release, at its {step}", "SIGKILL"),
        at(lab, "serv1", step, kill(lab, "serv1", script("release"))),
    ):
        lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=2 * LONG, check=False)


@pytest.mark.parametrize("what", ["sshd", "peer_gate", "rsync"])
def test_the_receiver_in_a_release(lab: Lab, what: str) -> None:
    """All connections break in the middle: the release fails, and everything is as it was."""
    pattern = {"sshd": "^sshd: root", "peer_gate": "peer_gate", "rsync": "rsync --server"}[what]
    with fault(lab, f"{what} of the receiver, in a release", "SIGKILL", services=SLOW) as day:
        fill(lab)
        release = lab.argv("serv1", ["release", "serv1", "--to", "serv2"])
        with day.running(release) as process:
            coming(lab, "serv2")
            killed(lab, "serv2", pattern)
            process.wait(2 * LONG)
        if process.returncode:
            day.serves("serv1", "serv1")


@pytest.mark.parametrize(
    ("node", "what", "pattern"),
    [
        ("serv1", "mirror_service", script("mirror_service")),
        ("serv1", "rsync of the sender", "^rsync "),
        ("serv1", "ssh of the sender", "^ssh "),
        ("serv2", "rsync of the receiver", "rsync --server"),
        ("serv2", "peer_gate", "peer_gate"),
        ("serv2", "sshd of the receiver", "^sshd: root"),
    ],
)
def test_in_a_pass(lab: Lab, node: str, what: str, pattern: str) -> None:
    name = f"{what}, in a pass"
    with fault(lab, name, "SIGKILL", answers=("serv1",), quiet=True, services=SLOW) as day:
        fill(lab)
        coming(lab, "serv2")
        killed(lab, node, pattern)
        day.another_pass()
    must(not lab.sh("serv2", f"find {SHARE} -name '.*' -not -name .clusterd"), "half-written files")


def fill(lab: Lab) -> None:
    """Give the next pass some seconds of work."""
    script = f"mkdir -p {SHARE}/big; for n in $(seq 20); do head -c 200000 /dev/urandom >{SHARE}/big/$n; done"
    lab.sh("serv1", script)


def coming(lab: Lab, node: str) -> None:
    """Wait until the pass has begun to send them."""
    found = ["sh", "-c", f"find {SHARE}/big -name '.*' | grep -q ."]
    lab.wait_for(lambda: lab.run(node, found, check=False).returncode == 0, LONG, "files on their way")


# --- stopped, and going on later -------------------------------------------------------------------------------------


def freeze(lab: Lab, *nodes: str) -> Callable[[], None]:
    """Stop every process of the nodes, while their kernels go on; returns what lets them go on."""
    frozen = [pid for node in nodes for pid in power.processes(lab.place.netns(node))]

    def send(number: int, pids: list[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    send(signal.SIGSTOP, frozen)
    return lambda: send(signal.SIGCONT, frozen[::-1])


def frozen_until(day: Day, thaw: Callable[[], None], *wait: Callable[[], object]) -> float:
    """Wait for these things, whatever happens let the nodes go on; returns when they did (CLOCK_MONOTONIC)."""
    try:
        for each in wait:
            each()
    finally:
        goes_on = monotonic()
        thaw()
    day.writer.more(1)
    return goes_on


def test_the_holder_for_longer_than_its_lease(lab: Lab) -> None:
    with fault(lab, "every process of the holder, until after the takeover", "SIGSTOP", answers=AWAY_AND_BACK) as day:
        thaw = freeze(lab, "serv1")
        goes_on = frozen_until(day, thaw, lambda: day.serves("serv2"), lambda: sleep(1))
        wait_event(lab, "serv1", "released-lost", goes_on)
        given = wait_event(lab, "serv2", "release-began", goes_on)
        day.silent_between("serv1", goes_on, given)


def test_the_holder_with_its_cables_out(lab: Lab) -> None:
    """As a virtual machine that is paused, moved and goes on."""
    name = "every process of the holder, its cables out meanwhile"
    with fault(lab, name, "SIGSTOP", answers=AWAY_AND_BACK) as day:
        thaw = freeze(lab, "serv1")
        for nic in ("main", "heartbeat", "redundant"):
            lab.unplug("serv1", nic)

        # Its kernel is not paused here, as that of a virtual machine is: its lease ends meanwhile.
        def ended() -> bool:
            return ADDRESS["serv1"] not in lab.addresses("serv1")

        lapse = partial(lab.wait_for, ended, LONG, "its lease to end")
        goes_on = frozen_until(day, thaw, lambda: day.serves("serv2"), lapse, lab.heal)
        wait_event(lab, "serv1", "released-lost", goes_on)
        given = wait_event(lab, "serv2", "release-began", goes_on)
        day.silent_between("serv1", goes_on, given)


def test_the_holder_with_its_cables_out_and_plugged_in_after_it_goes_on(lab: Lab) -> None:
    name = "every process of the holder, its cables in again some seconds after it goes on"
    with fault(lab, name, "SIGSTOP", answers=AWAY_AND_BACK) as day:
        thaw = freeze(lab, "serv1")
        lab.unplug("serv1", "main")
        lab.cut_heartbeat()
        goes_on = frozen_until(day, thaw, lambda: day.serves("serv2"))
        sleep(2)
        lab.heal()
        given = wait_event(lab, "serv2", "release-began", goes_on)
        day.silent_between("serv1", goes_on, given)


def test_the_holder_for_a_moment(lab: Lab) -> None:
    with fault(lab, "every process of the holder, for 0.5 s, four times", "SIGSTOP", answers=("serv1",)) as day:
        for _ in range(4):
            frozen_until(day, freeze(lab, "serv1"), lambda: sleep(0.5))
            sleep(0.5)
        assert "address-up" not in day.moved()


def test_both_nodes(lab: Lab) -> None:
    """As when the host of two virtual machines hangs: both leases end, nobody takes what is the other's."""
    with fault(lab, "every process of both nodes, for 5 s", "SIGSTOP", answers=("serv1",)) as day:
        frozen_until(day, freeze(lab, *NODES), lambda: sleep(5))


def test_only_the_watchdog(lab: Lab) -> None:
    """Parent and loop hang; cron starts no other, for the lock is held: the lease ends, and the peer takes over."""
    with fault(lab, "watchdog and its parent, until after the takeover", "SIGSTOP", answers=AWAY_AND_BACK) as day:
        for pid in pids(lab, "serv1", "watchdog"):
            lab.run("serv1", ["kill", "-STOP", str(pid)])
        day.serves("serv2")
        assert ADDRESS["serv1"] not in lab.addresses("serv1")
        day.writer.more()
        for pid in pids(lab, "serv1", "watchdog"):
            lab.run("serv1", ["kill", "-CONT", str(pid)])


def test_takeover_while_the_dead_node_returns(lab: Lab) -> None:
    """The successor's takeover hangs before its address is up, and goes on when the other is back and serves."""
    with fault(lab, "the successor's takeover, until the dead node is back", "SIGSTOP") as day:
        stop = lambda: lab.run("serv2", ["pkill", "-STOP", "-f", script("takeover")])  # noqa: E731 read once
        with at(lab, "serv2", "takeover-began", stop):
            lab.power_off("serv1")
        back = monotonic()
        lab.power_on("serv1")
        wait_event(lab, "serv1", "watchdog-started", back)
        sleep(3)
        lab.run("serv2", ["pkill", "-CONT", "-f", script("takeover")], check=False)
        day.writer.more(1)
