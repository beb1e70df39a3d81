"""Accounts and the cluster's own configuration as mirrored services, as shipped in conf/services: changed on their home
node they are the other node's as well, and a change on the wrong node has no effect.
"""

from collections.abc import Iterator
from time import monotonic

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import CHECKOUT, NODES
from lab.story import come_home, kept, mirror, moved, wait_event, wait_home

SERVICES = ("accounts", "clusterconf")
FILES = (
    *("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/cluster.d", "/etc/cluster.d/cluster.conf"),
    *("/etc/cluster.d/key", "/etc/cluster.d/known_hosts", "/etc/cluster.d/services/accounts.conf"),
)


@pytest.fixture
def system(lab: Lab) -> Iterator[Lab]:
    """The pair with both services, as the examples have them."""
    come_home(lab)
    began = monotonic()
    for node in NODES:
        for name in SERVICES:
            text = (CHECKOUT / "conf" / "services" / f"{name}.conf").read_text()
            lab.run(node, ["sh", "-c", f"cat >/etc/cluster.d/services/{name}.conf"], text_in=text)
    for node in NODES:
        wait_event(lab, node, "watchdog-started", began)
    wait_home(lab)
    try:
        yield lab
    finally:
        lab.configure()  # without them before the next pass: it would be of what the tests after this one configure


def looks(lab: Lab, node: str) -> str:
    """Mode, owner and content of each of the files."""
    names = " ".join(FILES)
    return lab.sh(node, f"stat -c '%n %a %U:%G' {names}; cat {names} 2>/dev/null | sha256sum", check=False)


def test_changed_at_home_they_are_changed_everywhere_and_elsewhere_it_has_no_effect(system: Lab) -> None:
    for node in NODES:
        system.sh(node, "for each in carol dave; do ! id $each 2>/dev/null || userdel $each; done")
    began = monotonic()
    mirror(system, "serv1", *SERVICES)
    system.sh("serv1", "useradd --uid 2003 --groups audio carol && echo carol:secret | chpasswd")
    system.sh("serv1", "sed -i 's/keep = 30 days/keep = 31 days/' /etc/cluster.d/cluster.conf")
    mirror(system, "serv1", *SERVICES)
    assert system.sh("serv2", "id carol") == system.sh("serv1", "id carol")
    assert "keep = 31 days" in (system.text("serv2", "/etc/cluster.d/cluster.conf") or "")
    good = looks(system, "serv1")
    assert looks(system, "serv2") == good
    assert "/etc/shadow 640 root:shadow\n" in good and "/etc/cluster.d/key 600 root:root\n" in good
    assert "/etc/cluster.d 700 root:root\n" in good

    system.sh("serv2", "useradd --uid 2004 dave; echo '# changed here' >>/etc/cluster.d/services/web.conf")
    mirror(system, "serv1", *SERVICES)
    assert looks(system, "serv2") == looks(system, "serv1") == good
    assert system.run("serv2", ["id", "dave"], check=False).returncode == 1
    sets = " ".join(kept(system, "serv2", "passwd"))
    assert "dave" in system.sh("serv2", f"cat {sets}") and "carol" in system.sh("serv2", f"cat {sets}")
    assert "# changed here" in system.sh("serv2", f"cat {' '.join(kept(system, 'serv2', 'web.conf'))}")

    wait_home(system)
    assert moved(system, began) == []
    system.run("serv1", ["cluster", "check"])
    system.run("serv2", ["cluster", "check"])
