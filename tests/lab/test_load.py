"""A large pass on a busy machine with a flooded heartbeat network, and then a full one: nobody is taken for dead.

Runs alone (marker `alone`): it takes both cores for itself. CLUSTERD_LOAD=full is the full size, for `make load`.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab.campaign import fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import killed, names, stays

SO_SNDBUFFORCE = 32
"""Not in the socket module: more datagrams may wait than the queue of a NIC takes."""
FULL = os.environ.get("CLUSTERD_LOAD") == "full"
FILES = 200_000 if FULL else 20_000
MEGABYTES = 10_000 if FULL else 500
FOLDER = "/srv/load"
SERVICE: dict[str, str | None] = {
    "home": "serv1",
    "run.kind": "none",
    "mirror.every": "never",
    "mirror.paths": f"{FOLDER}/",
    "mirror.whole_file": "yes",
}
MAKE = """
import os, sys
folder, count, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    if number % 1000 == 0:
        os.makedirs(f"{folder}/{number // 1000}", exist_ok=True)
    with open(f"{folder}/{number // 1000}/{number}", "w") as file:
        file.write(f"{number}\\n" * 10)
with open(f"{folder}/big", "wb") as file:
    block = os.urandom(1 << 20)
    for number in range(megabytes):
        file.write(number.to_bytes(4) + block[4:])
"""
MARK = "lab-load"
"""A word of each command line by which the nodes are kept busy, so that it can be found and ended."""
BUSY = "while True: pass"
FLOOD = f"""
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, {SO_SNDBUFFORCE}, 4 << 20)
while True:
    out.sendto(bytes(1400), (sys.argv[2], 9))
"""
HEARTBEAT = {"serv1": "192.168.111.2", "serv2": "192.168.111.1"}
"""The other end of each node's crossover cable."""
LINK = "10mbit"
"""So slow that the slowest machine fills it."""
SATURATED = 15.0
"""Seconds for which the heartbeat network is as slow as that, and full."""
FLOODED = 50_000_000
"""Bytes that each node has sent there at least, beside the files."""
QDISCS = f"""
tc qdisc add dev eth1 root handle 1: tbf rate {LINK} burst 32kb latency 50ms
tc qdisc add dev eth1 parent 1: handle 2: pfifo_fast
"""
"""A NIC of that speed, with the queue that Linux gives it: three bands, by the priority of what is sent."""


@contextmanager
def hurry(lab: Lab) -> Iterator[None]:
    """Every core busy twice over, and as many datagrams on the heartbeat network, both ways, as will go.

    All the time: what keeps them busy has to be there at the end.
    """
    programs = [FLOOD, *[BUSY] * (os.cpu_count() or 1)]
    with ExitStack() as stack:
        running = []
        for node in NODES:
            for program in programs:
                argv = ["python3", "-c", program, MARK, HEARTBEAT[node]]
                running.append(stack.enter_context(subprocess.Popen(lab.argv(node, argv))))
            stack.callback(killed, lab, node, f" {MARK} ")
        yield
        ended = [process.args for process in running if process.poll() is not None]
        assert not ended, ended


@contextmanager
def slow_link(lab: Lab) -> Iterator[None]:
    """The heartbeat network is slower than what is sent there: queues run over at both ends."""
    for node in NODES:
        lab.sh(node, QDISCS)
    try:
        yield
        for node in NODES:
            shown = json.loads(lab.run(node, ["tc", "-s", "-json", "qdisc", "show", "dev", "eth1"]).stdout)
            assert next(each["drops"] for each in shown if each["kind"] == "tbf") > 0, shown
    finally:
        for node in NODES:
            lab.sh(node, "tc qdisc del dev eth1 root")


def sent(lab: Lab, node: str) -> int:
    """Bytes that the node has sent on the heartbeat network."""
    return int(lab.run(node, ["cat", "/sys/class/net/eth1/statistics/tx_bytes"]).stdout)


@pytest.mark.alone
def test_a_large_pass_on_busy_machines(lab: Lab) -> None:
    size = f"{MEGABYTES // 1000} GB" if FULL else f"{MEGABYTES} MB"
    name = f"pass of {FILES} files and one of {size}, cores busy, heartbeats flooded"
    with fault(lab, name, "load", answers=("serv1",), quiet=True, services={"load": SERVICE}) as day:
        lab.run("serv1", ["python3", "-c", MAKE, FOLDER, str(FILES), str(MEGABYTES)], timeout=1800)
        before = {node: sent(lab, node) for node in NODES}
        with hurry(lab):
            lab.run("serv1", ["mirror_service", "load"], timeout=3600)
            day.writer.more()
            heard = {each for node in NODES for each in names(lab, node, day.began)}
            assert not heard & {"peer-dead", "isolated", "path-down"}, heard
            with slow_link(lab):
                stays(lab, SATURATED, serv1="serv1", serv2="serv2")
        for node, files in zip(NODES, (MEGABYTES * 1_000_000, 0), strict=True):
            assert sent(lab, node) - before[node] > files + FLOODED, f"{node} has not flooded the network"
        heard = {each for node in NODES for each in names(lab, node, day.began)}
        assert not heard & {"peer-dead", "isolated", "path-down"}, heard
    same = "find . -type f | sort | xargs -d '\\n' cksum | cksum"
    assert lab.sh("serv1", f"cd {FOLDER}; {same}", timeout=900) == lab.sh("serv2", f"cd {FOLDER}; {same}", timeout=900)
