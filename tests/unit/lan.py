"""A LAN of network namespaces: two nodes with a main and a redundant NIC each, and a router, on a switch that learns.

For tests, by ``pytest_plugins = ["lan"]``. The test itself runs inside the first node, so that what it calls is what
the watchdog calls; the fixture takes it back out.
"""

import ctypes
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import arp, model, paths

if TYPE_CHECKING:
    from unit.conftest import Box

SWITCH, HERE, THERE, ROUTER = "switch", "serv1", "serv2", "router"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Lan:
    """The namespaces of one test. NICs of the nodes: eth0 (main) and eth2 (redundant); the router has eth0 only."""

    def __init__(self) -> None:
        # What a killed run has left has another name, even if it was made by a process of the same number.
        self.prefix = f"cdtest{os.getpid()}-{secrets.token_hex(2)}"
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def up(self) -> None:
        for node in (SWITCH, HERE, THERE, ROUTER):
            _run("ip", "netns", "add", self.ns(node))
            self.ip(node, "link set lo up")
        self.ip(SWITCH, "link add br0 type bridge")
        self.ip(SWITCH, "link set br0 up")
        for node, nics in ((HERE, ("eth0", "eth2")), (THERE, ("eth0", "eth2")), (ROUTER, ("eth0",))):
            for nic in nics:
                self.ip(SWITCH, f"link add {node}-{nic} type veth peer name {nic} netns {self.ns(node)}")
                self.ip(SWITCH, f"link set {node}-{nic} master br0 up")
        self.ip(ROUTER, "link set eth0 up")
        self.ip(ROUTER, "addr add 10.1.0.254/24 dev eth0")
        self.ip(ROUTER, "addr add fd00:1::fe/64 dev eth0 nodad")
        self.ip(ROUTER, "addr add 198.51.100.1/32 dev lo")

    def down(self) -> None:
        self.leave()
        for node in (SWITCH, HERE, THERE, ROUTER):
            subprocess.run(["ip", "netns", "del", self.ns(node)], check=False, stderr=subprocess.DEVNULL)
        os.close(self.home)

    def ns(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def ip(self, node: str, words: str) -> Any:
        """``ip`` in that node's namespace; its answer, if it gives one."""
        out = _run("ip", "-n", self.ns(node), "-json", *words.split())
        return json.loads(out) if out.strip() else []

    def run(self, node: str, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["ip", "netns", "exec", self.ns(node), *argv], capture_output=True, text=True, check=False, timeout=30
        )

    def enter(self, node: str) -> None:
        """Move this process (its main thread, and threads started from now on) into the node."""
        arp.close_sender()
        with open(f"/run/netns/{self.ns(node)}", encoding="ascii") as file:
            _setns(file.fileno())

    def leave(self) -> None:
        arp.close_sender()
        _setns(self.home)

    def addresses(self, node: str, nic: str) -> dict[str, dict[str, Any]]:
        """The addresses on a NIC, by their text, as ``ip`` tells them."""
        return {info["local"]: info for info in self.ip(node, f"addr show dev {nic}")[0]["addr_info"]}

    def pings(self, node: str, target: str, *options: str) -> bool:
        return self.run(node, "ping", "-n", "-c3", "-i0.2", "-W1", *options, target).returncode == 0

    def neighbour(self, node: str, address: str) -> str | None:
        """The MAC address that a node has in its ARP or neighbour table."""
        found = [each.get("lladdr") for each in self.ip(node, f"neigh show to {address}")]
        return found[0] if found else None

    @staticmethod
    def wait_until(true: Callable[[], bool], timeout: float = 10.0) -> float:
        """Wait until it is true; the seconds that it took. Fails when it takes longer than `timeout`."""
        start = time.monotonic()
        while not true():
            assert time.monotonic() - start < timeout, "did not happen in time"
            time.sleep(0.01)
        return time.monotonic() - start

    def port(self, mac: str) -> str | None:
        """The port on which the switch has learned a MAC address."""
        out = json.loads(_run("bridge", "-n", self.ns(SWITCH), "-json", "fdb", "show"))
        ports = [each["ifname"] for each in out if each["mac"] == mac and "permanent" not in each.get("state", "")]
        return ports[0] if ports else None


@pytest.fixture
def lan(box: "Box", monkeypatch: pytest.MonkeyPatch) -> Iterator[Lan]:
    """A LAN, the test being inside serv1. What clusterd keeps is in the fixture `box`, the kernel is the real one."""
    monkeypatch.setattr(paths, "SYSCTL", "/proc/sys/net")
    monkeypatch.setattr(model, "hostname", lambda: HERE)
    made = Lan()
    try:
        made.up()
        made.enter(HERE)
        yield made
    finally:
        made.down()


@pytest.fixture
def office() -> model.Config:
    """The article's pair with IPv6 besides."""
    return _config()


@pytest.fixture
def offices() -> Callable[..., model.Config]:
    """Makes a pair of another kind: ``offices("macvlan", driver="ifupdown", lease=1.0)``."""
    return _config


def _config(method: str = "redundant_nic", driver: str = "iproute2", lease: float = 2.0) -> model.Config:
    return model.Config(
        folder="",
        name="office",
        nodes={
            "serv1": _node("serv1", 1, "00:10:4b:63:1c:08", method, driver),
            "serv2": _node("serv2", 2, "00:10:4b:63:1c:35", method, driver),
        },
        heartbeat=model.Heartbeat(0.1, 0.18, 0.3, 694),
        reference=("10.1.0.254",),
        failover=model.Failover(method, "auto", 60.0, lease, "home", 120.0),
        fence=model.Fence("none", ()),
        mirror=model.Mirror(("ssh",), 2, 2.0, 30.0),
        keep="30 days",
        timesync=model.Timesync((), 1.0),
        notify=model.Notify((), "root", "", ()),
        services={},
        digest="0" * 64,
    )


def _node(name: str, number: int, mac: str, method: str, driver: str) -> model.Node:
    return model.Node(
        name=name,
        interface="eth0",
        addresses=(f"10.1.0.{number}/24", f"fd00:1::{number}/64"),
        mac=None if method == "address" else mac,
        admin_addresses=(f"10.1.0.1{number}/24",),
        gateway=("10.1.0.254", "fd00:1::fe"),
        driver=driver,
        networks=(model.Network("heartbeat", "eth1", f"192.168.111.{number}/24"),),
        redundant="eth2" if method == "redundant_nic" else None,
    )


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
