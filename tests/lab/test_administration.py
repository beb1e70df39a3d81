"""cluster, as an administrator uses it: from one node to the other, over ssh with his own key."""

import json
import subprocess
from time import monotonic

import pytest

from clusterd import __version__
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import LONG, SHARE, kept, moved, wait_home

GONE = 45.0
"""Seconds after which a node that lost its power must be a line in the answer: 15 to 20, on a machine that is busy."""


def cluster(lab: Lab, node: str, *words: str, code: int = 0) -> str:
    """What a task says, in all; `code` is how it must end."""
    done = lab.run(node, ["cluster", *words], timeout=120, check=False)
    assert done.returncode == code, (words, done)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


# --- looks, and what is done on the other node -----------------------------------------------------------------------


def test_looks_at_both_from_one(home: Lab) -> None:
    tasks = [line.split()[0] for line in cluster(home, "serv2", "--list").splitlines()]
    assert {"status", "push", "install", "mirror", "backups", "logs", "run"} <= set(tasks)
    said = cluster(home, "serv2", "status")
    for node in NODES:
        (line,) = (line for line in said.splitlines() if line.startswith(f"{node}  "))
        assert " runs " in line and f"{node} (epoch " in line
    facts = json.loads(cluster(home, "serv2", "status", "--json"))
    assert facts["nodes"]["serv1"]["groups"]["serv1"]["services"] == {"web": True, "smbd": True}
    events_said = cluster(home, "serv2", "logs", "-n", "3").splitlines()
    times = [line.split()[0] for line in events_said]
    assert len(times) == 6 and times == sorted(times)
    said = cluster(home, "serv2", "run", "--", "hostname; echo $((6 * 7))")
    assert said.splitlines() == ["serv1: serv1", "serv1: 42", "serv2: serv2", "serv2: 42"]
    said = cluster(home, "serv2", "run", "--", "test $(hostname) = serv2", code=1)
    assert said.splitlines() == ["serv2: done", "serv1: exit 1"]


def test_passes_on_the_nodes_that_hold_and_the_sets_that_they_leave(home: Lab) -> None:
    home.sh("serv1", f"echo old >{SHARE}/by-cluster")
    assert "serv1: done" in cluster(home, "serv2", "mirror", "smbd")
    home.sh("serv1", f"echo new >{SHARE}/by-cluster")
    said = cluster(home, "serv2", "mirror", "--all")
    assert sorted(said.splitlines()) == ["serv1: done", "serv2: done"]
    assert home.text("serv2", f"{SHARE}/by-cluster") == "new\n" and kept(home, "serv2", "by-cluster")
    listed = cluster(home, "serv1", "backups").splitlines()
    sets = [line for line in listed if line.startswith("serv2: 2") and " smbd " in line]
    assert sets and all(" serv1 " in line for line in sets)
    assert "which service?" in cluster(home, "serv2", "mirror", code=2)


@pytest.mark.alone
def test_a_pushed_configuration_is_used_there_and_nothing_moves(home: Lab) -> None:
    began = monotonic()
    conf = "/etc/cluster.d/cluster.conf"
    home.sh("serv2", f"sed -i 's/keep = 30 days/keep = 31 days/' {conf}")
    assert "DIFFERS" in cluster(home, "serv1", "status")
    assert "nobody to ask" in cluster(home, "serv2", "push", code=2)
    said = cluster(home, "serv2", "push", "--yes")
    assert "serv1: files that differ: 1" in said and "-keep = 30 days\n+keep = 31 days" in said
    assert "serv1: changed: cluster.conf" in said
    assert home.text("serv1", conf) == home.text("serv2", conf)
    assert "serv1: the same already" in cluster(home, "serv2", "push", "--yes")
    home.wait_for(lambda: "DIFFERS" not in cluster(home, "serv1", "status"), LONG, "one configuration on both")
    wait_home(home)
    assert moved(home, began) == []


@pytest.mark.alone
def test_the_program_is_carried_to_the_other_node(home: Lab) -> None:
    """As to one that has none yet, and while the watchdog there runs on."""
    began = monotonic()
    home.sh("serv2", "rm -rf /usr/local/lib/clusterd /usr/local/share/clusterd /usr/local/sbin/[a-z]*[^b]")
    home.run("serv2", ["sh", "-c", "! command -v cluster"])
    said = cluster(home, "serv1", "install", "serv2")
    assert f"serv2: cluster (clusterd) {__version__}" in said
    assert cluster(home, "serv2", "--version") == f"cluster (clusterd) {__version__}\n"
    there = home.sh("serv2", "ls -l /usr/local/sbin | grep -c clusterd/venv/bin; ls /etc/cron.d/clusterd").split()
    assert there == ["10", "/etc/cron.d/clusterd"]
    cluster(home, "serv2", "check")
    wait_home(home)
    assert moved(home, began) == []


# --- a power cut in the middle ---------------------------------------------------------------------------------------


def test_a_node_that_loses_its_power_meanwhile_is_a_line_in_the_answer(home: Lab) -> None:
    line = "test $(hostname) = serv1 || { touch /run/asked; sleep 600; }"
    argv = home.argv("serv1", ["cluster", "run", "--", line])
    asking = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        home.wait_for(lambda: home.text("serv2", "/run/asked") is not None, LONG, "serv2 to be asked")
        cut = home.power_off("serv2")
        out, err = asking.communicate(timeout=GONE)
    finally:
        asking.kill()
    print(f"answered after {monotonic() - cut:.1f} s")
    assert (asking.returncode, out) == (1, "serv1: done\n")
    assert err == "serv2: the connection broke\n"
    home.power_on("serv2")
    wait_home(home)
