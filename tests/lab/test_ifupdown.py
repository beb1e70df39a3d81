"""The distribution's own ifup and ifdown bring the NICs up and down: takeover and failback all the same."""

from collections.abc import Iterator

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import (
    ADDRESS,
    ADDRESS6,
    MAC,
    come_home,
    get,
    mirror,
    put,
    wait_answers,
    wait_home,
    wait_serves,
    wait_standby,
    watching,
)

DRIVER: dict[str, dict[str, str | None]] = {node: {"driver": "ifupdown"} for node in NODES}


@pytest.fixture
def ifupdown(lab: Lab) -> Iterator[Lab]:
    """The pair with driver = ifupdown, booted that way; the stanzas are in /etc/network/interfaces."""
    come_home(lab, new=True, nodes=DRIVER)
    yield lab


def known(lab: Lab, node: str) -> set[str]:
    """The NICs that the distribution believes to be up, and as what."""
    return set(lab.sh(node, "cat /run/network/ifstate").split())


def test_takeover_and_failback_by_the_distributions_own_scripts(ifupdown: Lab) -> None:
    lab = ifupdown
    for node in NODES:
        assert "eth0=eth0" in known(lab, node)
    put(lab, "before.txt", "before\n")
    mirror(lab, "serv1", "smbd")
    with watching(lab, ADDRESS["serv1"], ADDRESS6["serv1"], ADDRESS["serv2"]) as probes:
        cut = lab.power_off("serv1")
        wait_serves(lab, "serv2", "serv1", "serv2")
        assert "eth2=serv1" in known(lab, "serv2")
        assert lab.sh("serv2", "cat /sys/class/net/eth2/address").strip() == MAC["serv1"]
        for address in (ADDRESS["serv1"], ADDRESS6["serv1"]):
            assert lab.addresses("serv2")[address] == "eth2"
            wait_answers(lab, probes[address], "serv2", cut)
        assert get(lab, "before.txt") == "before\n"
        lab.power_on("serv1")
        wait_standby(lab, "serv1")
        wait_home(lab)
        assert not {name for name in known(lab, "serv2") if name.startswith("eth2")}
        assert "eth0=eth0" in known(lab, "serv1")
        assert lab.sh("serv2", "cat /sys/class/net/eth2/address").strip() != MAC["serv1"]
        lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=120)
        wait_serves(lab, "serv2", "serv1", "serv2")
        lab.run("serv2", ["release", "serv1", "--to", "serv1"], timeout=120)
        wait_home(lab)
    assert probes[ADDRESS["serv1"]].summary.http_nodes == ["serv1", "serv2", "serv1", "serv2", "serv1"]
