"""Campaign: processes are stopped, as on a machine that hangs or is paused, and go on later, at bad moments."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from lab.campaign import AWAY_AND_BACK, Day, at, fault
from lab.labnet import power
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import ADDRESS, LONG, must, pids, script, wait_event, wait_home

LEASE = 3.0
"""Seconds: the lab's, and the one by which the kernel may be late, for it looks no more often."""


def freeze(lab: Lab, *nodes: str) -> Callable[[], None]:
    """Stop every process of the nodes, while their kernels go on; returns what lets them go on.

    nsenter, by which the lab starts commands there, stops by itself as soon as it sees that its command is stopped. If
    it saw that after it was told to go on, it would be stopped for ever: so it is not stopped from here.
    """
    found = [pid for node in nodes for pid in power.processes(lab.place.netns(node))]

    def send(number: int, pids: list[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    send(signal.SIGSTOP, [pid for pid in found if command(pid) != "nsenter"])
    return lambda: send(signal.SIGCONT, found[::-1])


def command(pid: int) -> str:
    """What a process of the host is called; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


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


PATIENT: dict[str, Any] = {"heartbeat.dead_after": "3500 ms"}
PAUSES = (0.0, 0.3, 0.8)
"""Seconds from the takeover until the paused node goes on; with a short dead_after its kernel has its address still."""


def paused(day: Day, delay: float) -> tuple[float, float]:
    """Stop the holder with its cables out; plug them in and let it go on in the same moment, after the takeover.

    Returns when that was (CLOCK_MONOTONIC), and since when the holder has been silent again for good.
    """
    lab = day.lab
    stopped = monotonic()
    thaw = freeze(lab, "serv1")
    try:
        for nic in ("main", "heartbeat", "redundant"):
            lab.unplug("serv1", nic)
        wait_event(lab, "serv2", "address-up", stopped)
        sleep(delay)
        lab.plug("serv1", "main")
    finally:
        goes_on = monotonic()
        thaw()
    lab.heal()
    given = wait_event(lab, "serv2", "release-began", goes_on)
    return goes_on, max([goes_on, *day.answers("serv1", stopped + 0.2, given)])


def test_a_paused_holder_that_goes_on_as_its_cables_are_plugged_in(lab: Lab) -> None:
    """With a dead_after longer than the lease its kernel has let go before anybody takes over: nothing answers."""
    name = "every process of the holder, cables out and in again as it goes on, three times; dead_after 3.5 s"
    answers = ("serv1", *("serv2", "serv1") * len(PAUSES))
    with fault(lab, name, "SIGSTOP", answers=answers, **PATIENT) as day:
        for delay in PAUSES:
            goes_on, silent = paused(day, delay)
            must(silent == goes_on, f"serv1 answered until {silent - goes_on:.3f} s after it went on")
            wait_home(lab)
            day.writer.more()


def test_the_exception_of_a_paused_holder(lab: Lab) -> None:
    """With a dead_after shorter than the lease its kernel answers from the plug on, until it has heard its peer."""
    name = "every process of the holder, cables out and in again as it goes on, three times; dead_after 0.3 s"
    with fault(lab, name, "SIGSTOP, a stated exception", moves=4 * len(PAUSES), excepted=LEASE) as day:
        for delay in PAUSES:
            goes_on, silent = paused(day, delay)
            must(silent - goes_on < LEASE, f"serv1 answered until {silent - goes_on:.3f} s after it went on")
            wait_home(lab)
            day.writer.more()


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
