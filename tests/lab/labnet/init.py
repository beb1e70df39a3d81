"""PID 1 of a machine of the lab: starts it as its init scripts would, reaps, and shuts down in order when told to.

Arguments: the init scripts to start, in order. SIGTERM means an orderly shutdown; pulling the plug is the lab's
business (it kills this process, and the kernel everything else). Standard library only, runs by itself.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LOG = Path("/var/log/boot.log")
BOOTED = Path("/run/booted")
SIGNALS = {signal.SIGTERM, signal.SIGCHLD}


def step(*argv: str) -> None:
    """One line of the boot script: its output goes to the boot log, its failure stops nothing."""
    with LOG.open("a") as log:
        log.write(f"{time.strftime('%F %T')} {' '.join(argv)}\n")
        log.flush()
        try:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            log.write(f"{error}\n")


def boot(services: list[str]) -> None:
    """Network, then services; /run/booted says that it is done."""
    Path("/run/network").mkdir(exist_ok=True)
    step("ip", "link", "set", "lo", "up")
    step("ifup", "-a")
    for name in services:
        step(f"/etc/init.d/{name}", "start")
    BOOTED.touch()


def stop(services: list[str]) -> None:
    """Services in reverse."""
    for name in reversed(services):
        step(f"/etc/init.d/{name}", "stop")


def end() -> None:
    """Everything that still runs, then the network; the end of PID 1 is the power switch."""
    os.kill(-1, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and reap() is not None:
        time.sleep(0.02)
    os.kill(-1, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    step("ifdown", "-a")
    sys.exit(0)


def in_child(work: Callable[[list[str]], None], services: list[str]) -> int:
    """Do `work` in a child, so that this process can go on reaping; returns its process id."""
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        work(services)
        os._exit(0)
    return pid


def reap() -> set[int] | None:
    """Collect dead children, and say which; None when no child is left."""
    dead = set()
    try:
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            dead.add(pid)
    except ChildProcessError:
        return None
    return dead


def main() -> None:
    """Boot, then wait for the end."""
    services = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    in_child(boot, services)
    stopping = 0
    while True:
        if signal.sigwait(SIGNALS) == signal.SIGTERM and not stopping:
            stopping = in_child(stop, services)
        gone = reap()
        if stopping and (gone is None or stopping in gone):
            end()


if __name__ == "__main__":
    main()
