"""A real sshd on this machine that plays the other node, with state and configuration of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import paths
from clusterd.model import Config, Network

if TYPE_CHECKING:
    from unit.conftest import Box

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SSHD = "/usr/sbin/sshd"


class Host:
    """serv2, reached at 127.0.0.1: `bin` is first on its PATH, `conf` and `state` are its own."""

    def __init__(self, box: "Box") -> None:
        self.box = box
        self.root = box.root / "serv2"
        self.bin = self.root / "bin"
        self.conf = self.root / "conf"
        self.bin.mkdir(parents=True)
        self.conf.mkdir(mode=0o700)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.host_key = self._key("host_key")
        self.user_key = self._key("user_key")
        self.process: subprocess.Popen[bytes] | None = None

    def _key(self, name: str) -> Path:
        path = self.root / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def start(self) -> None:
        """Start sshd, let in who has user_key, and let the administrator's own ssh configuration name the port."""
        os.makedirs("/run/sshd", exist_ok=True)
        shutil.copy(f"{self.user_key}.pub", self.root / "authorized")
        config = self.root / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.host_key}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.root}/authorized\nStrictModes no\nPermitRootLogin prohibit-password\n"
            f"SetEnv CLUSTERD_STATE={self.root}/state CLUSTERD_RUN={self.root}/run CLUSTERD_LOG={self.root}/log\n"
        )
        self.process = subprocess.Popen([SSHD, "-D", "-f", config], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                assert self.process.poll() is None, f"sshd ended at once: is port {self.port} taken?"
                time.sleep(0.02)
        else:
            pytest.fail("did not happen in time: sshd listens")
        ssh = self.box.home / ".ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        (ssh / "config").write_text(f"Host serv2\n  Port {self.port}\n  IdentityFile {self.user_key}\n")
        self.know(self.host_key)

    def know(self, *keys: Path) -> None:
        """Have known_hosts say that serv2 has these keys, in this order."""
        lines = [" ".join(["serv2", *Path(f"{key}.pub").read_text().split()[:2]]) for key in keys]
        Path(paths.known_hosts(str(self.box.conf))).write_text("\n".join(lines) + "\n")

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()

    def script(self, folder: Path, node: str, conf: Path, name: str) -> None:
        """A clusterd script in `folder` that runs as `node` and reads `conf` whatever --config says."""
        program = folder / name
        become = f"unshare --uts sh -c 'hostname {node} && exec \"$@\"' sh"
        python = f"env PYTHONPATH={SCRIPTS.parent}/lib {sys.executable} {SCRIPTS}/{name} --config {conf}"
        program.write_text(f'#!/bin/sh\nshift 2\nexec {become} {python} "$@"\n')
        program.chmod(0o755)

    def stand_in(self, name: str, text: str) -> None:
        """Another program on serv2's PATH."""
        program = self.bin / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)


def at_localhost(config: Config) -> Config:
    """The pair, with serv2 to be found on this machine."""
    there = config.nodes["serv2"]._replace(networks=(Network("heartbeat", "lo", "127.0.0.1/8"),), admin_addresses=())
    return config._replace(nodes={**config.nodes, "serv2": there})
