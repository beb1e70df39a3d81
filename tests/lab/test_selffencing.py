"""The hardware watchdog of a node: spoken to while all is well; a node whose watchdog hangs is reset.

The device is a stand-in. The lab's kernel may have no watchdog (nor softdog, nor CUSE to make one up), and a real one
would reset the host. A named pipe is /dev/watchdog, a few lines in the node's Python are its driver (they answer the
ioctls that open and set it), and a thread on the host is the hardware: it hears every word and, when none comes within
the timeout and the last one was no V, cuts the node's power. What clusterd does is real.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import pytest

from lab.labnet import power
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.labnet.proc import LabError
from lab.story import (
    ADDRESS,
    LONG,
    come_home,
    events,
    moved,
    must,
    pids,
    standby,
    stays,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    watching,
)

HOME = {"serv1": "serv1", "serv2": "serv2"}
TIMEOUT = 6.0
"""Seconds; longer than the lease."""
DEVICE = "/dev/watchdog"
DRIVER = """
import fcntl, os, stat, struct
real = fcntl.ioctl
def ioctl(fd, request, argument=0, *rest):
    if request >> 8 & 0xFF != ord("W") or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return real(fd, request, argument, *rest)
    return struct.pack("=II32s", 0x8180, 1, b"stand-in") if request & 0xFF == 0 else argument
fcntl.ioctl = ioctl
"""
INSTALL = """
for folder in /usr/local/lib/clusterd/venv/lib/python3*/site-packages; do
    cat >$folder/lab_driver.py; echo import lab_driver >$folder/lab_driver.pth
done
"""


class Hardware(Thread):
    """The hardware watchdog of serv1."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        lab.run("serv1", ["sh", "-ec", INSTALL], text_in=DRIVER)
        pipe = lab.path("serv1", DEVICE)
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        self.fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.words: list[tuple[float, bytes]] = []
        self.fired = Event()
        self._end = Event()

    def run(self) -> None:
        """Listen, and cut the power when it is silent for too long."""
        while not self._end.wait(0.02):
            with suppress(BlockingIOError):
                for word in os.read(self.fd, 4096):
                    self.words.append((monotonic(), bytes([word])))
            if self.words and self.words[-1][1] != b"V" and monotonic() - self.words[-1][0] > TIMEOUT:
                with suppress(LabError):
                    self.lab.power_off("serv1")
                self.fired.set()
                return

    def end(self) -> None:
        """Take it out."""
        self._end.set()
        self.join()
        os.close(self.fd)

    def since(self, when: float) -> list[bytes]:
        """The words that came after a CLOCK_MONOTONIC time."""
        return [word for at, word in list(self.words) if at > when]

    def wait_words(self, when: float, count: int = 3) -> None:
        self.lab.wait_for(lambda: self.since(when).count(b"\0") >= count, LONG, "serv1 to speak to the hardware")


@pytest.fixture
def hardware(lab: Lab) -> Iterator[Hardware]:
    """The pair in order, with a hardware watchdog in serv1."""
    come_home(lab, hold_down="1 second")
    made = Hardware(lab)
    made.start()
    began = monotonic()
    own = {"watchdog.device": DEVICE, "watchdog.timeout": f"{TIMEOUT:.0f} seconds"}
    lab.configure(hold_down="1 second", nodes={"serv1": own})
    for node in NODES:
        wait_event(lab, node, "watchdog-started", began)
    armed = wait_event(lab, "serv1", "watchdog-device-armed", began)
    assert armed["text"] == f"{DEVICE} (stand-in) resets this node after {TIMEOUT:.0f} s without a word"
    wait_home(lab)
    yield made
    made.end()


def kill(lab: Lab, number: int, *targets: int) -> None:
    lab.run("serv1", ["kill", f"-{number}", *map(str, targets)])


def test_it_is_spoken_to_through_every_restart_and_disarmed_at_an_orderly_stop(hardware: Hardware) -> None:
    lab = hardware.lab
    began = monotonic()
    hardware.wait_words(began)
    assert set(hardware.since(began)) == {b"\0"}

    killed = monotonic()
    kill(lab, signal.SIGKILL, pids(lab, "serv1", "watchdog")[1])
    hardware.wait_words(killed)
    assert set(hardware.since(killed)) == {b"\0"}, "a loop that is killed leaves it armed, and the next one goes on"

    asked = monotonic()
    kill(lab, signal.SIGHUP, pids(lab, "serv1", "watchdog")[0])
    lab.wait_for(lambda: b"V" in hardware.since(asked), LONG, "it to be disarmed")
    hardware.wait_words(monotonic())
    stays(lab, 1, **HOME)
    assert moved(lab, began) == []

    stopped = monotonic()
    kill(lab, signal.SIGTERM, pids(lab, "serv1", "watchdog")[0])
    lab.wait_for(lambda: hardware.since(stopped)[-1:] == [b"V"], LONG, "it to be disarmed")
    lab.wait_for(lambda: not pids(lab, "serv1", "watchdog"), LONG, "the watchdog to end")
    wait_serves(lab, "serv2", *NODES)
    said = hardware.since(stopped)
    assert said[-1] == b"V" and not hardware.fired.is_set()
    lab.sh("serv1", "setsid watchdog >/dev/null 2>&1 </dev/null &")
    wait_home(lab)


def test_a_hung_watchdog_leaves_no_node_answering_and_the_hardware_resets_it(hardware: Hardware) -> None:
    """The address goes with its lease, whatever hardware there is; the rest of the node when the hardware fires."""
    lab = hardware.lab
    with watching(lab) as probes:
        hung = monotonic()
        for pid in power.processes(lab.place.netns("serv1")):
            if b"sbin/watchdog" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)
        lab.wait_for(lambda: ADDRESS["serv1"] not in lab.addresses("serv1"), 20, "the lease to end")
        silent = monotonic()
        wait_serves(lab, "serv2", *NODES)
        assert hardware.fired.wait(30)
        assert not lab.is_on("serv1")
        last, fired = hardware.words[-1][0], monotonic()
        assert last < hung + 2 and fired - last > TIMEOUT
        lab.power_on("serv1")
        wait_standby(lab, "serv1")
        must(not probes[ADDRESS["serv1"]].answered("serv1", silent + 0.5), "serv1 answered after its reset")
        no_device = wait_event(lab, "serv1", "no-watchdog-device", fired)
        assert f"{DEVICE}: No such file or directory" in no_device["text"]
        wait_home(lab)
    assert not standby(lab, "serv1") and not events(lab, "serv2", hung, "fenced")


def test_what_is_no_watchdog_device_is_told_and_nothing_else_changes(lab: Lab) -> None:
    """The kernel's own answer: no stand-in here."""
    come_home(lab, hold_down="1 second")
    began = monotonic()
    lab.configure(hold_down="1 second", nodes={"serv2": {"watchdog.device": "/dev/zero"}})
    told = wait_event(lab, "serv2", "no-watchdog-device", began)
    assert told["text"].startswith("/dev/zero: is no watchdog device: nothing resets this node")
    sleep(0.5)
    wait_home(lab)
    assert "address-up" not in moved(lab, began)
