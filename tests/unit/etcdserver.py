"""A real etcd-server on the loopback: ``from unit.etcdserver import made_etcd_server as made_etcd_server``."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd import model


class Server:
    """One member; `tls`: a folder with ca.pem, server.pem, server.key, and it wants clients' certificates."""

    def __init__(self, folder: Path, tls: Path | None = None) -> None:
        self.folder = folder
        self.tls = tls
        self.port, self.peer_port = _free(), _free()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the data that it has; it elects itself within a second."""
        peer = f"http://127.0.0.1:{self.peer_port}"
        argv = ["etcd", "--name", "one", "--data-dir", str(self.folder), "--initial-cluster", f"one={peer}"]
        argv += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        argv += ["--heartbeat-interval", "10", "--election-timeout", "100"]  # so leases of a second are possible
        if self.tls:
            argv += ["--cert-file", f"{self.tls}/server.pem", "--key-file", f"{self.tls}/server.key"]
            argv += ["--trusted-ca-file", f"{self.tls}/ca.pem", "--client-cert-auth"]
        with open(f"{self.folder}.log", "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not self._ready():
            assert time.monotonic() < end and self.process.poll() is None, Path(f"{self.folder}.log").read_text()[
                -2000:
            ]
            time.sleep(0.02)

    def _ready(self) -> bool:
        if self.tls:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", self.port)) == 0
        try:
            return bool(json.loads(self.post("/health", None))["health"] == "true")
        except (OSError, ValueError):
            return False

    def post(self, path: str, body: object) -> str:
        """Ask it; for what a client of clusterd never does."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=5) as answer:
            return str(answer.read().decode())

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        assert self.process is not None
        os.kill(self.process.pid, number)
        stat = Path(f"/proc/{self.process.pid}/stat")
        while (stat.read_text().rpartition(")")[2].split()[0] == "T") is not (number == signal.SIGSTOP):
            time.sleep(0.001)

    def stop(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(name="etcd_server")
def made_etcd_server(tmp_path: Path) -> Iterator[Server]:
    """A server in the network namespace in which the test is now."""
    made = Server(tmp_path / "etcd")
    made.start()
    yield made
    made.stop()


def arbiter(*servers: Server, ttl: float = 5.0, timeout: float = 0.5, failsafe: bool = False) -> model.Arbiter:
    """The part of the configuration."""
    return model.Arbiter("etcd", tuple(server.url for server in servers), ttl, timeout, failsafe)


def _free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
