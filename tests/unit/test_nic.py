"""Facts about NICs, against what ``ip`` and ipaddress say."""

import ipaddress
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from clusterd import nic

if TYPE_CHECKING:
    from unit.lan import Lan

pytest_plugins = ["lan"]


def test_facts_are_those_of_ip(lan: "Lan") -> None:
    assert nic.exists("eth0") and not nic.up("eth0") and not nic.carrier("eth0")
    lan.ip("serv1", "link set eth0 up")
    assert nic.up("eth0")
    lan.wait_until(lambda: nic.carrier("eth0"))
    for number in range(1, 300):
        lan.ip("serv1", f"addr add 10.1.{number // 250}.{number % 250 + 1}/16 dev eth0")
    lan.ip("serv1", "addr add 10.3.0.1/24 dev eth0 label eth0:old")
    lan.ip("serv1", "addr add 10.4.0.1/24 dev eth2")
    lan.ip("serv1", "addr add fd00:1::1/64 dev eth0 nodad")
    assert nic.addresses("eth0") == {nic.packed(address) for address in lan.addresses("serv1", "eth0")}
    assert nic.packed("10.3.0.1") in nic.addresses("eth0")
    assert nic.mac("eth0") == lan.ip("serv1", "link show dev eth0")[0]["address"]
    assert nic.macs() == {name: nic.mac(name) for name in ("eth0", "eth2")}
    lan.ip("switch", "link set serv1-eth0 down")
    lan.wait_until(lambda: not nic.carrier("eth0"))
    assert nic.up("eth0")


def test_a_nic_that_is_not_there(lan: "Lan") -> None:
    assert not nic.exists("eth9") and not nic.up("eth9") and not nic.carrier("eth9")
    assert nic.mac("eth9") is None and nic.mac("lo") is None
    assert nic.addresses("eth9") == set()


@given(st.ip_addresses(), st.data())
def test_networks_are_those_of_ipaddress(address: ipaddress.IPv4Address, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, address.max_prefixlen))
    text = f"{address}/{size}"
    assert ipaddress.ip_network(nic.network(text)) == ipaddress.ip_interface(text).network
    assert nic.packed(text) == address.packed and nic.packed(nic.text(address.packed)) == address.packed
