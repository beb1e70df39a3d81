"""Places, and the raising and dropping of groups in the real kernel, on a LAN of namespaces."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import model, netsettings, network, nic, ownership, parking, paths, run
from clusterd.errors import Failed

if TYPE_CHECKING:
    from unit.lan import Lan

pytest_plugins = ["lan"]
Offices = Callable[..., model.Config]

HOME_MAC = "00:10:4b:63:1c:08"
PEER_MAC = "00:10:4b:63:1c:35"


def _place(config: model.Config, group: str) -> network.Place:
    return network.place(config, group, config.me())


def _take(config: model.Config, group: str) -> network.Place:
    """As a takeover does it."""
    where = _place(config, group)
    ownership.enter(group, ownership.read(group).epoch + 1, ownership.HELD)
    network.raise_group(config, where)
    return where


def _lose(config: model.Config, group: str) -> None:
    network.drop_group(config, _place(config, group))
    ownership.enter(group, ownership.read(group).epoch, ownership.FREE)


def _snapshot(lan: "Lan") -> dict[str, Any]:
    """All that a group may change: addresses, routes, rules, MACs, settings."""
    settings = {
        f"{name}": netsettings.read(name.format(interface))
        for interface in ("eth0", "eth2")
        for template in (netsettings.ANSWER_ONLY_HERE, netsettings.KEEP_SECONDARIES, netsettings.SILENT)
        for name in netsettings.of(template, interface)
    }
    tables = [lan.ip("serv1", f"{family} route show table all") for family in ("-4", "-6")]
    # An IPv6 route counts the seconds of its address's lease down.
    routes = [{key: value for key, value in route.items() if key != "expires"} for table in tables for route in table]
    return {
        "settings": settings,
        "rules": [lan.ip("serv1", "-4 rule"), lan.ip("serv1", "-6 rule")],
        "routes": {f"{route['dst']} {route}" for route in routes},
        "macs": {name: mac for name, mac in nic.macs().items() if name != "lo"},
        "addresses": {name: sorted(lan.addresses("serv1", name)) for name in ("eth0", "eth2")},
    }


def test_places_of_redundant_nic(lan: "Lan", office: model.Config) -> None:
    home, foreign = _place(office, "serv1"), _place(office, "serv2")
    assert (home.interface, home.mac, home.home, home.link) == ("eth0", HOME_MAC, True, "")
    assert (foreign.interface, foreign.mac, foreign.home, foreign.link) == ("eth2", PEER_MAC, False, "")
    assert home.table != foreign.table
    assert foreign.addresses == ("10.1.0.2/24", "fd00:1::2/64")


def test_places_of_other_methods(offices: Offices) -> None:
    made = offices("macvlan")
    serv1 = made.nodes["serv1"]
    where = network.place(made, "serv2", serv1)
    assert (where.interface, where.link, where.mac) == ("cd-serv2", "eth0", PEER_MAC)
    assert network.place(made, "serv1", serv1).interface == "eth0"
    where = network.place(offices("address"), "serv2", serv1)
    assert (where.interface, where.link, where.mac) == ("eth0", "", None)


def test_macvlan_names_fit_and_differ(offices: Offices) -> None:
    made = offices("macvlan")
    long = {f"webserver-of-the-house-{letter}": made.nodes["serv2"] for letter in "ab"}
    made = made._replace(nodes={**made.nodes, **long})
    names = [network.place(made, group, made.nodes["serv1"]).interface for group in long]
    assert all(len(name) <= 15 for name in names)
    assert len(set(names)) == 2


def test_no_redundant_nic_is_said(office: model.Config) -> None:
    with pytest.raises(Failed, match=r"serv1.conf: \[redundant\] interface is missing: serv2 has no NIC to go to"):
        network.place(office, "serv2", office.nodes["serv1"]._replace(redundant=None))


def test_prepare_parks_and_silences(lan: "Lan", office: model.Config) -> None:
    lan.ip("serv1", f"link set eth0 address {HOME_MAC}")  # its own factory's, as in the article
    factory = nic.mac("eth2")
    assert network.prepare(office) == []
    assert nic.mac("eth0") == "02:10:4b:63:1c:08"
    assert nic.mac("eth2") == factory
    assert nic.carrier("eth0") and nic.carrier("eth2")
    assert set(lan.addresses("serv1", "eth0")) == {"10.1.0.11"}
    assert lan.addresses("serv1", "eth2") == {}
    assert netsettings.read("ipv4/conf/eth2/arp_ignore") == "8"
    assert lan.pings("router", "10.1.0.11")


def test_prepare_again_changes_nothing(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    _take(office, "serv1")
    _take(office, "serv2")
    before = _snapshot(lan)
    assert network.prepare(office) == []
    assert _snapshot(lan) == before


def test_a_record_that_cannot_be_read_does_not_keep_the_other_group_from_serving(
    lan: "Lan", office: model.Config
) -> None:
    """A watchdog that did not start would take the healthy one down as well."""
    network.prepare(office)
    _take(office, "serv1")
    before = _snapshot(lan)
    Path(ownership.path("serv2")).write_text("{")
    assert network.prepare(office) == []
    network.raise_group(office, _place(office, "serv1"))
    assert _snapshot(lan) == before


def test_prepare_removes_what_a_crash_left(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    before = _snapshot(lan)
    _take(office, "serv2")
    _take(office, "serv1")
    lan.ip("serv1", "addr add 10.1.0.2/16 dev eth0")
    for group in ("serv1", "serv2"):
        record = ownership.read(group)
        ownership.write(record._replace(boot="another"))
    assert network.prepare(office) == []
    assert _snapshot(lan) == before


def test_prepare_reports_a_missing_nic_and_does_the_rest(lan: "Lan", office: model.Config) -> None:
    lan.ip("serv1", "link del eth2")
    assert network.prepare(office) == ["eth2: no such network interface"]
    assert nic.carrier("eth0")
    _take(office, "serv1")
    assert lan.pings("router", "10.1.0.1")


def test_prepare_warns_of_a_kernel_that_answers_no_probe(lan: "Lan", office: model.Config) -> None:
    netsettings.write("ipv4/conf/all/arp_ignore", "2")
    assert network.prepare(office)[-1].startswith("net.ipv4.conf.all.arp_ignore is above 1")


@pytest.mark.parametrize("method", ["redundant_nic", "macvlan", "address"])
@pytest.mark.parametrize("group", ["serv1", "serv2"])
def test_up_and_down_again(lan: "Lan", offices: Offices, method: str, group: str) -> None:
    made = offices(method)
    network.prepare(made)
    before = _snapshot(lan)
    where = _take(made, group)
    number = group[-1]
    assert network.missing(where) == []
    found = lan.addresses("serv1", where.interface)
    for address in (f"10.1.0.{number}", f"fd00:1::{number}"):
        assert found[address]["valid_life_time"] in {1, 2}
        assert lan.pings("router", address)
        assert lan.pings("serv1", "10.1.0.254" if "." in address else "fd00:1::fe", "-I", address)
    if where.mac:
        assert lan.neighbour("router", f"10.1.0.{number}") == where.mac
        assert lan.neighbour("router", f"fd00:1::{number}") == where.mac
    network.raise_group(made, where)
    assert network.missing(where) == []
    _lose(made, group)
    assert set(network.missing(where)) == set(where.addresses)
    assert _snapshot(lan) == before
    network.drop_group(made, where)
    assert _snapshot(lan) == before
    assert lan.pings("router", "10.1.0.11")


@pytest.mark.parametrize("method", ["redundant_nic", "macvlan"])
def test_both_groups_answer_with_their_own_mac_only(lan: "Lan", offices: Offices, method: str) -> None:
    made = offices(method, lease=60.0)
    network.prepare(made)
    for group in ("serv1", "serv2"):
        _take(made, group)
    time.sleep(0.2)
    for _ in range(5):
        lan.ip("router", "neigh flush all")
        for address, mac in (("10.1.0.1", HOME_MAC), ("10.1.0.2", PEER_MAC), ("10.1.0.11", HOME_MAC)):
            assert lan.pings("router", address)
            assert lan.neighbour("router", address) == mac
    assert lan.port(HOME_MAC) == "serv1-eth0"
    assert lan.port(PEER_MAC) == ("serv1-eth2" if method == "redundant_nic" else "serv1-eth0")
    _lose(made, "serv2")
    assert lan.pings("router", "10.1.0.1") and not lan.pings("router", "10.1.0.2")
    _lose(made, "serv1")
    assert lan.pings("router", "10.1.0.11") and not lan.pings("router", "10.1.0.1")


def test_replies_from_a_foreign_group_leave_by_its_nic(lan: "Lan", office: model.Config) -> None:
    """To a host behind the router as well, and not to a network that this machine knows better."""
    network.prepare(office)
    for group in ("serv1", "serv2"):
        _take(office, group)
    lan.ip("serv1", "link add docker0 type bridge")
    lan.ip("serv1", "addr add 172.17.0.1/16 dev docker0")
    lan.ip("serv1", "link set docker0 up")
    ways = {
        ("10.1.0.2", "10.1.0.254"): "eth2",
        ("10.1.0.2", "198.51.100.1"): "eth2",
        ("10.1.0.2", "172.17.0.5"): "docker0",
    }
    ways |= {
        ("10.1.0.1", "198.51.100.1"): "eth0",
        ("fd00:1::2", "fd00:1::fe"): "eth2",
        ("fd00:1::2", "2001:db8::1"): "eth2",
    }
    for (source, target), interface in ways.items():
        assert lan.ip("serv1", f"route get {target} from {source}")[0]["dev"] == interface, (source, target)
    assert lan.run("serv1", "ping", "-n", "-c1", "-W1", "-I", "10.1.0.2", "198.51.100.1").returncode == 0


def test_the_peer_takes_over_with_the_same_mac(
    lan: "Lan", office: model.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move of a group from one node to the other and back, as a client and the switch see it."""
    network.prepare(office)
    lan.enter("serv2")
    monkeypatch.setattr(model, "hostname", lambda: "serv2")
    monkeypatch.setattr(paths, "RUN", f"{paths.RUN}-2")
    network.prepare(office)
    second = _take(office, "serv2")
    assert network.announce(second)
    assert lan.pings("router", "10.1.0.2") and lan.port(PEER_MAC) == "serv2-eth0"
    lan.ip("router", "neigh replace 10.1.0.2 lladdr 00:10:4b:63:1c:35 dev eth0 nud permanent")
    _lose(office, "serv2")
    lan.enter("serv1")
    monkeypatch.setattr(model, "hostname", lambda: "serv1")
    monkeypatch.setattr(paths, "RUN", paths.RUN.removesuffix("-2"))
    where = _take(office, "serv2")
    assert network.announce(where)
    assert lan.port(PEER_MAC) == "serv1-eth2"
    assert lan.pings("router", "10.1.0.2")


def test_a_parked_nic_never_shows_a_groups_mac(lan: "Lan", office: model.Config) -> None:
    """Not even when its own factory's is the group's: the switch must not learn it there."""
    lan.ip("serv1", "link set eth0 down")
    lan.ip("serv1", f"link set eth0 address {HOME_MAC}")
    network.prepare(office)
    lan.pings("serv1", "10.1.0.254")
    assert lan.port("02:10:4b:63:1c:08") == "serv1-eth0"
    assert lan.port(HOME_MAC) is None


def test_parking_macs_are_never_a_groups(lan: "Lan", office: model.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = {"mac": "00:aa:bb:cc:dd:ee"}
    monkeypatch.setattr(parking, "_factory_mac", lambda _: factory["mac"])
    taken = {**office.nodes, "serv3": office.nodes["serv2"]._replace(name="serv3", mac="02:10:4b:63:1c:08")}
    crowded = office._replace(nodes=taken)
    assert parking.parking_mac(office, "eth0") == "00:aa:bb:cc:dd:ee"
    factory["mac"] = HOME_MAC
    assert parking.parking_mac(office, "eth0") == "02:10:4b:63:1c:08"
    made = parking.parking_mac(crowded, "eth0")
    assert made.startswith("02:") and made not in {node.mac for node in taken.values()}
    assert made != parking.parking_mac(crowded, "eth2")
    assert made == parking.parking_mac(crowded, "eth0")


def test_a_nic_that_refuses_a_live_change_goes_down_and_up(
    lan: "Lan", office: model.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """veth takes it live; a stand-in for ip refuses as such a driver does."""
    network.prepare(office)
    folder = f"{paths.RUN}/bin"
    os.makedirs(folder)
    real = lan.run("serv1", "sh", "-c", "command -v ip").stdout.strip()
    with open(f"{folder}/ip", "w", encoding="utf-8") as file:
        file.write(
            f'#!/bin/sh\nif [ "$1 $2 $5" = "link set address" ]; then\n'
            f"  echo 'RTNETLINK answers: Device or resource busy' >&2; exit 2\nfi\nexec {real} \"$@\"\n"
        )
    os.chmod(f"{folder}/ip", 0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    where = _take(office, "serv2")
    assert nic.mac("eth2") == PEER_MAC and nic.up("eth2")
    lan.wait_until(lambda: nic.carrier("eth2"))
    assert lan.pings("router", "10.1.0.2")
    network.drop_group(office, where)
    assert nic.mac("eth2") != PEER_MAC


def test_a_nic_that_is_left_down_is_brought_up_again(lan: "Lan", office: model.Config) -> None:
    """As ifdown leaves it, with its own MAC address: up, and silent, it shows whether it has a link."""
    where = _take(office, "serv2")
    lan.ip("serv1", "link set eth2 down address 02:00:00:00:00:42")
    network.drop_group(office, where)
    assert nic.up("eth2") and nic.mac("eth2") != PEER_MAC


def test_others_learn_the_admin_address_when_the_mac_changes(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    assert lan.pings("router", "10.1.0.11")
    _take(office, "serv1")
    lan.wait_until(lambda: lan.neighbour("router", "10.1.0.11") == HOME_MAC)
    assert lan.pings("router", "10.1.0.11")


def test_two_foreign_groups_cannot_share_a_nic(lan: "Lan", office: model.Config) -> None:
    third = office.nodes["serv2"]._replace(name="serv3", mac="00:10:4b:63:1c:99", addresses=("10.1.0.3/24",))
    made = office._replace(nodes={**office.nodes, "serv3": third})
    network.prepare(made)
    _take(made, "serv2")
    with pytest.raises(Failed, match="serv3: eth2 holds serv2 already"):
        network.raise_group(made, _place(made, "serv3"))
    assert network.missing(_place(made, "serv2")) == []


def test_raise_says_what_the_kernel_refused(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    netsettings.write("ipv6/conf/eth2/disable_ipv6", "1")
    with pytest.raises(Failed, match=r"serv2: fd00:1::2/64 is not on eth2: ip addr replace .*"):
        network.raise_group(office, _place(office, "serv2"))
    lan.ip("serv1", "link del eth2")
    with pytest.raises(Failed, match="serv2: eth2: no such network interface"):
        network.raise_group(office, _place(office, "serv2"))
    network.drop_group(office, _place(office, "serv2"))


def test_a_wrong_router_is_told_and_stops_nothing(lan: "Lan", office: model.Config) -> None:
    nodes = {name: node._replace(gateway=("10.9.9.9",)) for name, node in office.nodes.items()}
    made = office._replace(nodes=nodes)
    network.raise_group(made, _place(made, "serv2"))
    assert lan.pings("router", "10.1.0.2")
    with open(paths.EVENTS, encoding="utf-8") as file:
        assert "network-incomplete" in file.read()


def test_verify_asks_from_the_groups_address(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    where = _place(office, "serv2")
    assert network.verify(office, where) is None
    _take(office, "serv2")
    assert network.verify(office, where) == "10.1.0.254 answered"
    assert network.verify(office, where, ("fd00:1::fe",)) == "fd00:1::fe answered"
    start = time.monotonic()
    assert network.verify(office, where, ("10.1.0.77",)) == "kernel only"
    assert time.monotonic() - start < 1
    lan.ip("switch", "link set serv1-eth2 down")
    assert network.verify(office, where) == "kernel only"


def test_announce_only_what_is_here(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    where = _place(office, "serv2")
    assert not network.announce(where)
    _take(office, "serv2")
    lan.ip("serv1", "addr del fd00:1::2/64 dev eth2")
    assert not network.announce(where)
    network.raise_group(office, where)
    assert network.announce(where)


def test_dry_run_touches_nothing(
    lan: "Lan", office: model.Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network.prepare(office)
    before = _snapshot(lan)
    monkeypatch.setattr(run, "dry_run", True)
    where = _place(office, "serv2")
    network.raise_group(office, where)
    network.announce(where)
    network.drop_group(office, where)
    assert _snapshot(lan) == before
    shown = capsys.readouterr().out
    assert "would run: ip addr replace 10.1.0.2/24" in shown
    assert "would run: sysctl -w net/ipv4/conf/eth2/arp_ignore=1" in shown


def test_settings_are_put_back_when_the_last_group_leaves(lan: "Lan", office: model.Config) -> None:
    network.prepare(office)
    netsettings.write("ipv4/conf/eth0/rp_filter", "1")
    _take(office, "serv1")
    _take(office, "serv2")
    _lose(office, "serv1")
    assert netsettings.read("ipv4/conf/eth0/arp_ignore") == "1"
    _lose(office, "serv2")
    assert netsettings.read("ipv4/conf/eth0/arp_ignore") == "0"
    assert netsettings.read("ipv4/conf/eth0/rp_filter") == "1"
