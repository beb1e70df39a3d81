"""The lab's power switch on the LAN, seen from the lab: put there when it is wanted, and taken away.

A machine of its own as far as the LAN can tell (a network namespace with an address), and a process of the host's,
which can do what `lab power-off` does (pduserver.py).
"""

import json
import subprocess
import sys
from pathlib import Path

from . import power, switch
from .plan import BMC_PORT, PDU, Place
from .proc import LabError, environment, run, wait_for

NAME = "pdu"
PORT = "w-pdu"
"""Its port of the LAN bridge."""
MAC = "00:10:4b:00:00:fc"
MODES = ("works", "fails", "hangs", "lies")
"""What becomes of "off", "on" and "status": done; refused; never answered; said to be done and not done."""


def is_on(at: Place) -> bool:
    """Whether the lab has a power switch now."""
    return bool(power.processes(at.netns(NAME)))


def start(at: Place, mode: str = "works") -> None:
    """Put it on the LAN, or into another of `MODES`, and wait until it listens."""
    if mode not in MODES:
        raise LabError(f"a power switch {', '.join(MODES)}: not {mode!r}")
    (at.folder / "pdu.mode").write_text(mode)
    if is_on(at):
        return
    stop(at)
    netns = at.netns(NAME)
    run(["ip", "netns", "add", netns])
    switch.batch(
        at.switch,
        [
            f"link add {PORT} type veth peer name eth0 address {MAC} netns {netns}",
            f"link set {PORT} master {switch.LAN}",
            f"link set {PORT} up",
        ],
    )
    switch.batch(netns, ["link set lo up", f"addr add {PDU}/24 dev eth0", "link set eth0 up"])
    log = at.folder / "pdu.log"
    log.touch()
    subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-m", "lab.labnet.pduserver", at.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(at.folder / "pdu.err").open("w"),
        start_new_session=True,
        env=environment(),
        cwd=Path(__file__).resolve().parents[2],
    )
    listening = ["ss", "-N", netns, "-Hltn", "sport", "=", f":{BMC_PORT}"]
    wait_for(lambda: run(listening).stdout, 20, "the power switch to listen")


def stop(at: Place) -> bool:
    """Take it off the LAN; False when there was none."""
    netns = at.netns(NAME)
    if not switch.exists(netns):
        return False
    power.kill_all(lambda: power.processes(netns), "the power switch to end")
    if switch.exists(at.switch):
        switch.ip(at.switch, "link", "del", PORT, check=False)
    run(["ip", "netns", "del", netns])
    return True


def requests(at: Place) -> list[dict[str, str]]:
    """What it was asked since it was started, the oldest first: time, who, action, plug, and what became of it."""
    try:
        return [json.loads(line) for line in (at.folder / "pdu.log").read_text().splitlines()]
    except FileNotFoundError:
        return []
