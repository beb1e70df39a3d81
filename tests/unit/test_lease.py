"""Leases in the real kernel: renewed they stay, unrenewed they go, gone they stay gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from clusterd import lease, model, network, nic
from clusterd.lease import Keeper
from clusterd.places import FOREIGN_METRIC, Place

if TYPE_CHECKING:
    from unit.lan import Lan

pytest_plugins = ["lan"]

GROUPS = ("serv1", "serv2")
Keepers = Callable[[float], Keeper]


@pytest.fixture
def began(lan: "Lan") -> float:
    """A moment before the groups are put up, if it is named before `places`."""
    return time.monotonic()


@pytest.fixture
def places(lan: "Lan", offices: Callable[..., model.Config]) -> Iterator[list[Place]]:
    """Both groups up, IPv4 and IPv6, for one second."""
    config = offices(lease=1.0)
    network.prepare(config)
    made = [network.place(config, group, config.me()) for group in GROUPS]
    for where in made:
        network.raise_group(config, where)
    yield made


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    """Makes keepers, and closes them in the end."""
    made: list[Keeper] = []

    def make(seconds: float) -> Keeper:
        made.append(Keeper(seconds))
        return made[-1]

    yield make
    for keeper in made:
        keeper.close()


def _missing(places: list[Place]) -> list[str]:
    return [address for where in places for address in network.missing(where)]


def _wait_renewed(keeper: Keeper, since: float) -> None:
    deadline = time.monotonic() + 10
    while keeper.renewed < since and not keeper.failed() and time.monotonic() < deadline:
        time.sleep(0.001)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_what_is_not_renewed_lapses_on_time(began: float, places: list[Place], lan: "Lan") -> None:
    # The kernel looks for what has lapsed at most once a second, and these four were not set in one go.
    lan.wait_until(lambda: len(_missing(places)) == 4, 3)
    assert time.monotonic() - began > 1.0


def test_what_is_renewed_stays_as_it_is(places: list[Place], keepers: Keepers, lan: "Lan") -> None:
    keeper = keepers(1.0)
    before = [lan.ip("serv1", f"{family} route show table all") for family in ("-4", "-6")]
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        keeper.renew(places)
        time.sleep(0.2)
        assert not keeper.failed(), keeper.why()
        assert _missing(places) == []
    assert [_timeless(lan.ip("serv1", f"{family} route show table all")) for family in ("-4", "-6")] == [
        _timeless(table) for table in before
    ]
    keeper.close()
    lan.wait_until(lambda: len(_missing(places)) == 4, 3)


def _timeless(routes: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in route.items() if key != "expires"} for route in routes]


@pytest.mark.parametrize("address", ["10.1.0.1/24", "fd00:1::1/64"])
def test_a_lapsed_address_is_never_revived(places: list[Place], keepers: Keepers, lan: "Lan", address: str) -> None:
    where = places[0]._replace(addresses=(address,))
    lan.wait_until(lambda: bool(network.missing(where)), 3)
    keeper = keepers(1.0)
    for _ in range(3):
        keeper.renew([where])
        lan.wait_until(keeper.failed)
        assert keeper.why() == f"serv1: {address} on eth0: it has lapsed"
        assert network.missing(where) == [address]
        keeper.forgive()


def test_the_kernel_does_create_without_the_flag(
    places: list[Place], keepers: Keepers, lan: "Lan", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter-proof: the refusal is the flag's work, and the test above would notice its loss."""
    lan.wait_until(lambda: len(_missing(places)) == 4, 3)
    monkeypatch.setattr(lease, "_IFA_F_MCAUTOJOIN", 0)
    keeper = keepers(1.0)
    keeper.renew(places)
    lan.wait_until(lambda: not _missing(places))


RENEWER = """
import sys, time
from clusterd import network
from clusterd.lease import Keeper
keeper, where = Keeper(1.0), network.Place("serv1", "eth0", None, ("10.1.0.1/24", "fd00:1::1/64"), (), 6940, True, "")
print("ready", flush=True)
sys.stdin.readline()
while not keeper.failed():
    keeper.renew([where])
    time.sleep(float(sys.argv[1]))
print("failed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def renewer(lan: "Lan", request: pytest.FixtureRequest) -> "Iterator[subprocess.Popen[str]]":
    """A process that is ready to renew, before there is anything that could end meanwhile."""
    argv = [sys.executable, "-c", RENEWER, getattr(request, "param", "0.1")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def begin(renewer: "subprocess.Popen[str]") -> None:
    """Have it renew, for longer than a lease."""
    assert renewer.stdin
    renewer.stdin.write("\n")
    renewer.stdin.flush()
    time.sleep(1.3)


@pytest.mark.parametrize("renewer", ["0.2", "0"], indirect=True)
def test_a_process_stopped_and_continued_revives_nothing(
    renewer: "subprocess.Popen[str]", places: list[Place], lan: "Lan"
) -> None:
    """However it is stopped: with a pause of 0 it is always in the middle of a renewal."""
    begin(renewer)
    assert network.missing(places[0]) == []
    os.kill(renewer.pid, signal.SIGSTOP)
    lan.wait_until(lambda: len(network.missing(places[0])) == 2, 10)
    os.kill(renewer.pid, signal.SIGCONT)
    assert renewer.stdout and renewer.stdout.readline() == "failed\n"
    time.sleep(0.3)
    assert len(network.missing(places[0])) == 2


def test_a_process_that_dies_renews_no_more(renewer: "subprocess.Popen[str]", places: list[Place], lan: "Lan") -> None:
    begin(renewer)
    renewer.kill()
    lan.wait_until(lambda: len(network.missing(places[0])) == 2, 10)


def test_a_nic_that_is_gone_is_a_failure(places: list[Place], keepers: Keepers, lan: "Lan") -> None:
    lan.ip("serv1", "link del eth2")
    keeper = keepers(1.0)
    keeper.renew(places)
    lan.wait_until(keeper.failed)
    assert keeper.why().startswith("serv2: 10.1.0.2/24 on eth2: ")


def test_renew_does_not_wait_for_the_kernel(
    places: list[Place], keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change of the network can hold the kernel's lock for seconds."""
    slow = [0]

    def stuck(_self: Keeper, _where: Place, _address: str) -> int:
        slow[0] += 1
        time.sleep(0.3)
        return 0

    monkeypatch.setattr(Keeper, "_renew_one", stuck)
    keeper = keepers(1.0)
    start = time.monotonic()
    for _ in range(100):
        keeper.renew(places[:1])
    assert time.monotonic() - start < 3, "30 s, if each were waited for"
    time.sleep(0.7)
    assert slow[0] <= 2 + (time.monotonic() - start) / 0.3
    keeper.close()


def test_how_long_the_kernel_has_not_answered_is_known(
    places: list[Place], keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lapses meanwhile it may not remove: the hardware watchdog gets no word."""
    answer = threading.Event()
    monkeypatch.setattr(Keeper, "_renew_one", lambda *_: 0 if answer.wait(20) else 1)
    keeper = keepers(1.0)
    assert keeper.waited(_now()) == 0.0
    asked = _now()
    keeper.renew(places[:1])
    time.sleep(0.3)
    assert 0.2 < keeper.waited(_now()) < _now() - asked + 0.01
    answer.set()
    _wait_renewed(keeper, asked)
    time.sleep(0.05)
    assert keeper.waited(_now()) == 0.0
    keeper.close()


def test_it_costs_next_to_nothing(places: list[Place]) -> None:
    keeper, rounds = Keeper(1.0), 200
    start = time.process_time()
    for _ in range(rounds):
        now = _now()
        keeper.renew(places)
        _wait_renewed(keeper, now)
    assert not keeper.failed()
    assert (time.process_time() - start) / rounds < 0.01


def test_only_the_lifetime_changes(places: list[Place], keepers: Keepers, lan: "Lan") -> None:
    """Metric and flags that a renewal did not repeat would be reset."""
    before = lan.addresses("serv1", "eth2")
    keeper = keepers(7.0)
    now = _now()
    keeper.renew(places)
    _wait_renewed(keeper, now)
    after = lan.addresses("serv1", "eth2")
    for address, info in before.items():
        assert after[address]["valid_life_time"] in {6, 7}
        assert after[address]["metric"] == info["metric"] == FOREIGN_METRIC
    assert nic.addresses("eth2") == {nic.packed(address) for address in before}
