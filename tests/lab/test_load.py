"""A large pass on a busy machine with a flooded heartbeat network: nobody is taken for dead.

Runs alone (marker `alone`): it takes both cores for itself. CLUSTERD_LOAD=full is the full size, for `make load`.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab.campaign import fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import names

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
FLOOD = """
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        out.sendto(bytes(1400), (sys.argv[1], 9))
    except OSError:
        pass
"""
HEARTBEAT = {"serv1": "192.168.111.2", "serv2": "192.168.111.1"}
"""The other end of each node's crossover cable."""


@contextmanager
def hurry(lab: Lab) -> Iterator[None]:
    """Every core busy twice over, and as many datagrams on the heartbeat network, both ways, as will go."""
    busy = ["python3", "-c", "while True: pass"]
    with ExitStack() as stack:
        for node in NODES:
            for argv in [["python3", "-c", FLOOD, HEARTBEAT[node]], *[busy] * (os.cpu_count() or 1)]:
                process = stack.enter_context(subprocess.Popen(lab.argv(node, argv), stderr=subprocess.DEVNULL))
                stack.callback(process.kill)
        yield


@pytest.mark.alone
def test_a_large_pass_on_busy_machines(lab: Lab) -> None:
    size = f"{MEGABYTES // 1000} GB" if FULL else f"{MEGABYTES} MB"
    name = f"pass of {FILES} files and one of {size}, cores busy, heartbeats flooded"
    with fault(lab, name, "load", answers=("serv1",), quiet=True, services={"load": SERVICE}) as day:
        lab.run("serv1", ["python3", "-c", MAKE, FOLDER, str(FILES), str(MEGABYTES)], timeout=1800)
        with hurry(lab):
            lab.run("serv1", ["mirror_service", "load"], timeout=3600)
            day.writer.more()
        heard = {each for node in NODES for each in names(lab, node, day.began)}
        assert not heard & {"peer-dead", "isolated", "path-down"}, heard
    same = "find . -type f | sort | xargs -d '\\n' cksum | cksum"
    assert lab.sh("serv1", f"cd {FOLDER}; {same}", timeout=900) == lab.sh("serv2", f"cd {FOLDER}; {same}", timeout=900)
