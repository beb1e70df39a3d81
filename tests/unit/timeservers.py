"""Real chronyd time servers in a network namespace of their own, one of which lies by an hour.

A chronyd with -x never touches the clock, but serves the time that it believes in; `chronyc settime` makes it believe
anything.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

LIE = 3600.0
"""Seconds by which the false server is ahead."""
TRUE = ("10.9.0.1", "10.9.0.2", "10.9.0.3")
FALSE = "10.9.0.4"
SILENT = "10.9.0.9"
"""Nobody is there."""

_HOLD = """\
set -e
ip link set lo up
ip addr add 10.9.0.0/24 dev lo
mkdir -p /run/chrony
mount -t tmpfs -o mode=750 tmpfs /run/chrony
echo ready
exec sleep infinity
"""


class Lan:
    """The network in which they are; `argv` runs something in it. No chronyd runs under the usual socket at first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        argv = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _HOLD]
        self.holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.holder.stdout and self.holder.stdout.readline() == b"ready\n"

    def argv(self, *words: str) -> list[str]:
        """The command `words`, inside."""
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--mount", *words]

    def serve(self, address: str) -> None:
        """A server at `address`, which tells the time of this machine's clock."""
        settings = ["local stratum 2", "allow", "manual", "cmdport 0", f"bindaddress {address}"]
        self.start(address, settings, self.folder / address)

    def lie(self, address: str) -> None:
        """Have the server believe that it is an hour later."""
        then = time.strftime("%b %d, %Y %H:%M:%S", time.gmtime(time.time() + LIE))
        self.chronyc("-h", f"{self.folder}/{address}/chronyd.sock", "settime", then)

    def client(self, *servers: str) -> None:
        """A chronyd as on a node, which asks `servers` often."""
        lines = [f"server {server} iburst minpoll -2 maxpoll -2" for server in servers]
        self.start("client", [*lines, "port 0"], Path("/run/chrony"))

    def settled(self, count: int) -> None:
        """Wait until the client has heard so many servers and has chosen."""
        deadline = time.monotonic() + 60
        while True:
            sources = [line.split(",") for line in self.chronyc("-c", "sources").splitlines()]
            # Reach is octal: three answers each.
            heard = sum(int(fields[5], 8) >= 7 for fields in sources)
            if heard >= count and "Not synchronised" not in self.chronyc("-c", "tracking"):
                return
            assert time.monotonic() < deadline, sources
            time.sleep(0.2)

    def start(self, name: str, settings: Sequence[str], folder: Path) -> None:
        """A chronyd with its socket in `folder`."""
        if not str(folder).startswith("/run/"):
            folder.mkdir(mode=0o750)
        own = [f"bindcmdaddress {folder}/chronyd.sock", f"pidfile {folder}/pid", f"driftfile {folder}/drift"]
        path = self.folder / f"{name}.conf"
        path.write_text("\n".join([*settings, *own]) + "\n")
        argv = self.argv("chronyd", "-x", "-u", "root", "-n", "-L", "2", "-f", str(path))
        self.daemons[name] = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env={**os.environ, "TZ": "UTC"})
        socket = f"{folder}/chronyd.sock"
        deadline = time.monotonic() + 10
        while "Stratum" not in self.chronyc("-h", socket, "tracking", check=False):
            assert time.monotonic() < deadline, f"chronyd {name} does not start"
            time.sleep(0.05)

    def chronyc(self, *words: str, check: bool = True) -> str:
        """What chronyc says, inside."""
        env = {**os.environ, "TZ": "UTC"}
        done = subprocess.run(
            self.argv("chronyc", *words), capture_output=True, text=True, timeout=60, check=check, env=env
        )
        return done.stdout

    def stop(self, name: str) -> None:
        """End one chronyd."""
        process = self.daemons.pop(name)
        process.terminate()
        process.wait(10)

    def close(self) -> None:
        """End all of it."""
        for name in list(self.daemons):
            self.stop(name)
        self.holder.kill()
        self.holder.communicate()
