"""An etcd cluster in the lab: a real etcd-server each on the client and both reference hosts, started on demand."""

import json
from collections.abc import Sequence

from .lab import Lab
from .plan import MACHINES
from .proc import LabError

HOSTS = ("client", "ref1", "ref2")
DATA = "/run/etcd"
LOG = "/var/log/etcd.log"
START = f"""
export ETCD_UNSUPPORTED_ARCH=$(uname -m | sed s/aarch64/arm64/)
start-stop-daemon --start --background --oknodo --pidfile {DATA}.pid --make-pidfile --startas /bin/sh -- -c \
    'exec etcd "$@" >>{LOG} 2>&1' etcd "$@"
"""


def address(host: str) -> str:
    """Where a host's etcd answers."""
    return MACHINES[host].nic("eth0").addresses[0].partition("/")[0]


ENDPOINTS = tuple(f"http://{address(host)}:2379" for host in HOSTS)


class Etcd:
    """The three of them. Power off forgets a host's data; what is only stopped goes on with them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def start(self, hosts: Sequence[str] = HOSTS) -> None:
        """Start those that do not run, and wait until the cluster answers everywhere."""
        members = ",".join(f"{host}=http://{address(host)}:2380" for host in HOSTS)
        for host in hosts:
            client, peer = f"http://{address(host)}:2379", f"http://{address(host)}:2380"
            words = ["--name", host, "--data-dir", DATA, "--listen-client-urls", client]
            words += ["--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-cluster", members]
            words += ["--initial-advertise-peer-urls", peer, "--initial-cluster-token", "lab"]
            self.lab.run(host, ["sh", "-ec", START, "start", *words])
        for host in hosts:
            self.lab.wait_for(lambda host=host: self.healthy(host), 90, f"etcd on {host} to answer")  # type: ignore[misc]

    def signal(self, name: str, *hosts: str) -> None:
        """Send a signal to the etcd of these hosts: KILL, STOP, CONT."""
        for host in hosts:
            self.lab.sh(host, f"kill -{name} $(cat {DATA}.pid)")

    def healthy(self, host: str) -> bool:
        """Whether it answers and has a leader."""
        asked = self.lab.run(
            host, ["curl", "-s", "-m", "2", f"http://{address(host)}:2379/health"], check=False, timeout=20
        )
        try:
            return bool(json.loads(asked.stdout).get("health") == "true")
        except ValueError:
            return False

    def claims(self, host: str = "client", cluster: str = "office") -> dict[str, str]:
        """Who has which group, as this host's etcd says."""
        from base64 import b64decode, b64encode

        prefix = f"/clusterd/{cluster}/groups/"
        ends = prefix, prefix[:-1] + "0"
        body = {name: b64encode(end.encode()).decode() for name, end in zip(("key", "range_end"), ends, strict=True)}
        url = f"http://{address(host)}:2379/v3/kv/range"
        asked = self.lab.run(host, ["curl", "-s", "-m", "5", "-d", json.dumps(body), url], check=False)
        try:
            rows = json.loads(asked.stdout).get("kvs", [])
        except ValueError as error:
            raise LabError(f"etcd on {host}: {asked.stdout!r}") from error
        return {
            b64decode(row["key"]).decode().removeprefix(prefix): json.loads(b64decode(row["value"]))["node"]
            for row in rows
        }
