"""The program is upgraded on a node that serves, and removed from one: as INSTALL, section 14, says."""

from collections.abc import Iterator
from time import monotonic

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import (
    come_home,
    holds,
    moved,
    pids,
    stays,
    wait_event,
    wait_serves,
    watching,
)

SOURCES = "/usr/src/clusterd"
INSTALL = ["make", "-s", "-C", SOURCES, "install", "PREFIX=/usr/local"]
NEWER = f"""sed -i 's/^__version__ = .*/__version__ = "99.1"/' {SOURCES}/lib/clusterd/__init__.py"""


@pytest.fixture
def spoilt(lab: Lab) -> Iterator[Lab]:
    """A pair in order, of which the next test gets nothing: the nodes' disks are as delivered then."""
    come_home(lab, lease="10 seconds")
    yield lab
    lab.reset()


def test_an_upgrade_moves_nothing_and_a_removal_hands_over(spoilt: Lab) -> None:
    lab = spoilt
    with watching(lab):
        upgrade(lab)
        remove(lab)


def upgrade(lab: Lab) -> None:
    """`make install` of another version, by hand on the one node and by `cluster install` on the other."""
    was = {node: pids(lab, node, "watchdog")[-1] for node in NODES}
    lab.sh("serv1", f"{NEWER}; echo '# mine' >>/etc/cron.d/clusterd")
    began = monotonic()
    done = lab.run("serv1", INSTALL, timeout=300)
    assert "/etc/cron.d/clusterd was changed here and is kept" in done.stdout
    lab.run("serv1", ["cluster", "install", "serv2"], timeout=300)
    for node in NODES:
        wait_event(lab, node, "watchdog-started", began)
        assert lab.run(node, ["check_peer", "--version"]).stdout.split()[-1] == "99.1"
        assert was[node] not in pids(lab, node, "watchdog")
    stays(lab, 2, serv1="serv1", serv2="serv2")
    assert moved(lab, began) == []


def remove(lab: Lab) -> None:
    """Nothing of the program is left, and all that is the administrator's is."""
    lab.run("serv1", ["cluster", "standby", "serv1"], timeout=120)
    wait_serves(lab, "serv2", *NODES)
    done = lab.run("serv1", ["make", "-s", "-C", SOURCES, "uninstall"], timeout=60)
    assert "clusterd is removed; kept:" in done.stdout
    assert pids(lab, "serv1", "watchdog") == []
    gone = "/usr/local/sbin/takeover /usr/local/lib/clusterd /usr/local/share/clusterd /etc/cron.d/clusterd"
    kept = "/etc/cluster.d/cluster.conf /var/lib/clusterd/standby /var/log/clusterd/events.jsonl"
    lab.sh("serv1", f"! ls -d {gone} 2>/dev/null; ls -d {kept}")
    assert holds(lab, "serv2", *NODES)
