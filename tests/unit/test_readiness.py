"""What a takeover would need, looked at while nothing is wrong: real NICs, the distribution's files."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from clusterd import model, network, nic, paths
from clusterd.readiness import FILES_EVERY, NIC_EVERY, Readiness
from clusterd.worker import Worker
from unit.site import Site
from unit.site import made_site as made_site

if TYPE_CHECKING:
    from unit.conftest import Box

pytest_plugins = ["lan"]


@pytest.fixture(name="worker")
def made_worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.finish(5)


def test_the_redundant_nic_has_a_link(site: Site, worker: Worker) -> None:
    assert Readiness(site.load(), worker).lacking(100) == {}


def test_its_cable_is_out(site: Site, worker: Worker) -> None:
    site.lan.ip("switch", "link set serv1-eth2 down")
    site.lan.wait_until(lambda: not network.reachable("eth2"))
    assert Readiness(site.load(), worker).lacking(100) == {"eth2": "eth2: has no link: serv2 could not be reached here"}


def test_one_that_is_down_is_made_ready(site: Site, worker: Worker) -> None:
    """It has come only now, or ifdown has left it so: a takeover would bring it up, and then wait for its link."""
    site.lan.ip("serv1", "link set eth2 down")
    assert network.reachable("eth2")
    ready = Readiness(site.load(), worker)
    assert ready.lacking(100) == {}
    site.lan.wait_until(lambda: nic.carrier("eth2"))


def test_it_is_not_there(site: Site, worker: Worker) -> None:
    ready = Readiness(site.load(), worker)
    assert ready.lacking(100) == {}
    site.lan.ip("serv1", "link set eth2 name later")
    assert ready.lacking(100 + NIC_EVERY / 2) == {}
    lacking = ready.lacking(100 + NIC_EVERY)
    assert lacking == {"eth2": "eth2: no such network interface: serv2 could not be reached here"}
    site.lan.ip("serv1", "link set later name eth2")


@pytest.mark.parametrize("method", ["macvlan", "address"])
def test_where_the_main_nic_takes_it_nothing_else_is_needed(site: Site, worker: Worker, method: str) -> None:
    site.lan.ip("switch", "link set serv1-eth2 down")
    assert Readiness(site.configure(method=method), worker).lacking(100) == {}


def test_the_files_of_the_distribution(
    box: "Box", hostname: Callable[[str], None], offices: Callable[..., model.Config]
) -> None:
    """They are read by the worker: a disk that hangs does not stop the loop."""
    hostname("serv1")
    box.interfaces.write_text("auto eth0\n")
    worker = Worker()
    ready = Readiness(offices(driver="ifupdown"), worker)
    ready.lacking(100)
    worker.finish(5)
    told = ready.lacking(100 + FILES_EVERY / 2)[paths.INTERFACES]
    assert told == f"{paths.INTERFACES}: iface eth0: missing; allowed: with the addresses and the MAC of serv1"
