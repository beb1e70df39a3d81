"""A machine's power: its namespaces, its processes, its disk."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

from . import image, switch
from .plan import IMAGE, Machine, Place
from .proc import LabError, environment, run, wait_for
from .record import Record
from .rootfs import ENTER, UNSHARE, Root

INIT = "/usr/local/lib/lab/init.py"
PYTHON = "/usr/bin/python3"
FORBIDDEN = "-sys_time,-sys_module,-sys_rawio"
"""As in enter.py: what comes in from outside must not touch the host's clock either."""
BOOT_TIME = 120.0
"""Seconds after which a machine that has not booted is broken."""


def layers(place: Place, machine: Machine, kept: Record) -> tuple[Path, ...]:
    """The read-only layers of a machine: as delivered, the program (nodes only), the base."""
    middle = (IMAGE / kept.program / "upper",) if machine.is_node and kept.program else ()
    return (place.disk(machine.name) / "factory", *middle, image.merged_folder(kept.base))


def root(place: Place, machine: Machine, kept: Record) -> Root:
    """The root file system that a machine boots from."""
    disk = place.disk(machine.name)
    return Root(disk, layers(place, machine, kept), disk / "upper", machine.name)


def processes(netns: str) -> list[int]:
    """Every process in a network namespace: what runs on a machine."""
    result = run(["ip", "netns", "pids", netns], check=False)
    return [int(word) for word in result.stdout.split()] if result.returncode == 0 else []


def init_pid(place: Place, machine: Machine) -> int:
    """The process id, on the host, of a machine's PID 1; 0 when it is off."""
    try:
        pid = int((place.disk(machine.name) / "pid").read_text())
        same = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{place.netns(machine.name)}").st_ino
        return pid if same and _state(pid) != "Z" else 0
    except (OSError, ValueError):
        return 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def boot(place: Place, machine: Machine, kept: Record) -> None:
    """Start a machine on its disk: new namespaces, NICs with factory MACs, init. Its links are still down."""
    netns = place.netns(machine.name)
    run(["ip", "netns", "add", netns])
    switch.connect(place, machine)
    pid_file = place.disk(machine.name) / "pid"
    pid_file.unlink(missing_ok=True)
    spec = root(place, machine, kept).spec([PYTHON, "-I", INIT, *machine.services], boot=True, pid_file=pid_file)
    with (place.disk(machine.name) / "console.log").open("w") as console:
        subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{netns}", *UNSHARE, PYTHON, "-I", str(ENTER), spec],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            env=environment(),
            cwd="/",
        )


def wait_booted(place: Place, machine: Machine) -> None:
    """Wait until the boot script is through; raises LabError with the console's last lines."""
    start = monotonic()

    def booted() -> bool:
        pid = init_pid(place, machine)
        if not pid and monotonic() - start > 30:
            raise LabError(f"{machine.name} does not boot: {console(place, machine)}")
        return bool(pid) and os.path.exists(f"/proc/{pid}/root/run/booted")

    wait_for(booted, BOOT_TIME, f"{machine.name} to boot")


def console(place: Place, machine: Machine) -> str:
    """The last lines on a machine's console, as one line."""
    try:
        lines = (place.disk(machine.name) / "console.log").read_text().strip().splitlines()
    except OSError:
        return "no console"
    return " / ".join(lines[-5:]) or "its console is empty"


def cut(place: Place, machine: Machine) -> float:
    """Pull the plug: no frame leaves and no program runs after this; returns when (CLOCK_MONOTONIC, seconds)."""
    pid = init_pid(place, machine)
    switch.links_down(place, machine)
    when = monotonic()
    if pid:
        os.kill(pid, signal.SIGKILL)
    return when


def clear(place: Place, machine: Machine) -> None:
    """Take away what a machine without power has no use for: processes, NICs, namespace. Its disk stays."""
    netns = place.netns(machine.name)
    if not switch.exists(netns):
        return
    kill_all(lambda: processes(netns), f"the processes of {machine.name}")
    if switch.exists(place.switch):
        switch.remove_links(place, machine)
    run(["ip", "netns", "del", netns])


def kill_all(find: Callable[[], list[int]], what: str) -> None:
    """Kill what `find` finds until it finds nothing more."""

    def all_dead() -> bool:
        pids = find()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_for(all_dead, 60, f"{what} to end")


def shut_down(place: Place, machine: Machine, seconds: float = 120) -> None:
    """Shut a machine down in order, as `poweroff` would."""
    pid = init_pid(place, machine)
    if pid:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not init_pid(place, machine), seconds, f"{machine.name} to shut down")


def wipe(place: Place, machine: Machine) -> None:
    """Give a machine that is off its disk as delivered."""
    for name in ("upper", "work"):
        shutil.rmtree(place.disk(machine.name) / name, ignore_errors=True)


def inside(place: Place, machine: Machine, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` on a machine; raises LabError when it is off."""
    pid = init_pid(place, machine)
    if not pid:
        raise LabError(f"{machine.name} has no power")
    enter = ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "--"]
    return [*enter, "setpriv", f"--bounding-set={FORBIDDEN}", "--", *argv]
