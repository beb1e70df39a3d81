"""The distribution's network files, and its ifup and ifdown.

Debian's are the real programs, on a file and a state folder of the test's own. Red Hat's do not exist on Debian: a
stand-in reads ifcfg-NAME and does what the real one does with DEVICE, MACADDR and IPADDR.
"""

import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from clusterd import ifupdown, model, network, nic, ownership, paths
from clusterd.errors import Failed

if TYPE_CHECKING:
    from unit.conftest import Box
    from unit.lan import Lan

pytest_plugins = ["lan"]

INTERFACES = """\
# what the article's serv1 has
auto lo
iface lo inet loopback
auto eth1
iface eth1 inet static
    address 192.168.111.1/24

iface eth0 inet static
    address 10.1.0.1/24
    hwaddress ether 00:10:4B:63:1C:08
    gateway 10.1.0.254
iface eth0 inet6 static
    address fd00:1::1/64
    dad-attempts 0

source peers.d/*
"""
PEER = """\
iface serv2 inet static
    address 10.1.0.2
    netmask 255.255.255.0
    hwaddress 00:10:4b:63:1c:35
iface serv2 inet6 static
    address fd00:1:0::2
    netmask 64
    dad-attempts 0
"""
IFCFG = {
    "eth0": "DEVICE=eth0\nONBOOT=no\nBOOTPROTO=static\nIPADDR=10.1.0.1\nPREFIX=24\nIPV6INIT=yes\n"
    "IPV6ADDR=fd00:1::1/64\nMACADDR=00:10:4B:63:1C:08\nARPCHECK=no\n",
    "eth1": "DEVICE=eth1\nONBOOT=yes\nIPADDR=192.168.111.1\nPREFIX=24\n",
    "serv2": 'DEVICE="eth2"  # the redundant one\nONBOOT="no"\nBOOTPROTO=none\nIPADDR0=10.1.0.2\n'
    "NETMASK0=255.255.255.0\nIPV6ADDR=fd00:1::2/64\nMACADDR='00:10:4b:63:1c:35'\nARPCHECK=no\n",
}
RED_HAT = """\
set -e
. "$CLUSTERD_IFCFG/ifcfg-$1"
case ${0##*/} in
ifup)
    ip link set dev "$DEVICE" address "$MACADDR"
    ip link set dev "$DEVICE" up
    ip addr add "${IPADDR:-$IPADDR0}/24" dev "$DEVICE"
    ip addr add "$IPV6ADDR" dev "$DEVICE" nodad ;;
ifdown)
    ip addr flush dev "$DEVICE"
    ip link set dev "$DEVICE" down ;;
esac
"""


@pytest.fixture
def ifupdown_office(hostname: Callable[[str], None], offices: Callable[..., model.Config]) -> model.Config:
    """The pair with driver = ifupdown, as serv1 sees it; no network."""
    hostname("serv1")
    return offices(driver="ifupdown")


def _write_debian(box: "Box", interfaces: str = INTERFACES, peer: str = PEER) -> None:
    box.interfaces.write_text(interfaces)
    (box.root / "peers.d").mkdir(exist_ok=True)
    (box.root / "peers.d" / "serv2").write_text(peer)


def _write_red_hat(box: "Box", **changed: str) -> None:
    for name, text in {**IFCFG, **changed}.items():
        (box.ifcfg / f"ifcfg-{name}").write_text(text)


def _check(config: model.Config) -> list[str]:
    return ifupdown.check(config, config.nodes["serv1"])


def test_what_fits_is_no_problem(box: "Box", ifupdown_office: model.Config) -> None:
    _write_debian(box)
    assert _check(ifupdown_office) == []
    box.interfaces.unlink()
    _write_red_hat(box)
    assert _check(ifupdown_office) == []


def test_with_iproute2_nobody_reads_the_files(box: "Box", office: model.Config) -> None:
    box.interfaces.write_text("auto eth0\n")
    assert _check(office) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("00:10:4B:63:1C:08", "00:10:4b:63:1c:09",
         "interfaces: iface eth0 inet: hwaddress: found '00:10:4b:63:1c:09'; allowed: 00:10:4b:63:1c:08"),
        ("    hwaddress ether 00:10:4B:63:1C:08\n", "",
         "interfaces: iface eth0 inet: hwaddress: missing; allowed: 00:10:4b:63:1c:08"),
        ("10.1.0.1/24", "10.1.0.1/25",
         "interfaces: iface eth0 inet: address: found '10.1.0.1/25'; allowed: 10.1.0.1/24, fd00:1::1/64"),
        ("    address fd00:1::1/64\n", "", "interfaces: iface eth0 inet: address: missing; allowed: fd00:1::1/64"),
        ("    address 10.1.0.1/24\n", "    address nonsense\n",
         "interfaces: iface eth0 inet: address: found 'nonsense'; allowed: 10.1.0.1/24, fd00:1::1/64"),
        ("iface eth0 inet static", "iface eth0 inet dhcp",
         "interfaces: iface eth0 inet: method: found 'dhcp'; allowed: static"),
        ("    dad-attempts 0\n\nsource", "\nsource", "interfaces: iface eth0 inet6: dad-attempts: missing; allowed: 0"),
        ("auto eth1", "auto eth1 eth0", "interfaces: auto: found 'eth0'; allowed: not this NIC, clusterd brings it up"),
        ("auto eth1", "allow-hotplug eth2", "interfaces: allow-hotplug: found 'eth2'; allowed: not this NIC"),
        ("auto eth1", "auto /eth*", "interfaces: auto: found '/eth*'; allowed: not this NIC"),
        ("auto eth1", "auto eth3=serv2", "interfaces: auto: found 'eth3=serv2'; allowed: not this NIC"),
        ("source peers.d/*", "", "interfaces: iface serv2: missing; allowed: with the addresses and the MAC of serv2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_debians_file(
    box: "Box", ifupdown_office: model.Config, old: str, new: str, problem: str
) -> None:
    assert INTERFACES.count(old) == 1
    _write_debian(box, INTERFACES.replace(old, new))
    assert any(f"{box.root}/{problem}" in found for found in _check(ifupdown_office)), _check(ifupdown_office)


def test_a_problem_names_the_included_file(box: "Box", ifupdown_office: model.Config) -> None:
    _write_debian(box, peer=PEER.replace("1c:35", "1c:36"))
    assert _check(ifupdown_office) == [
        f"{box.root}/peers.d/serv2: iface serv2 inet: hwaddress: found '00:10:4b:63:1c:36'; allowed: 00:10:4b:63:1c:35"
    ]


def test_continued_lines_comments_and_folders(box: "Box", ifupdown_office: model.Config) -> None:
    broken = PEER.replace("hwaddress 00:10", "hwaddress \\\n   00:10").replace(
        "    netmask 64", "# a comment\n    netmask 64"
    )
    _write_debian(box, INTERFACES.replace("source peers.d/*", f"source-directory {box.root}/peers.d"), broken)
    assert _check(ifupdown_office) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("eth0", "ONBOOT=no", "ONBOOT=yes", "ifcfg-eth0: ONBOOT: found 'yes'; allowed: no, clusterd brings it up"),
        ("eth0", "ONBOOT=no\n", "", "ifcfg-eth0: ONBOOT: missing; allowed: no"),
        ("serv2", "1c:35", "1c:36", "ifcfg-serv2: MACADDR: found '00:10:4b:63:1c:36'; allowed: 00:10:4b:63:1c:35"),
        ("eth0", "MACADDR=00:10:4B:63:1C:08\n", "", "ifcfg-eth0: MACADDR: missing; allowed: 00:10:4b:63:1c:08"),
        ("serv2", "eth2", "eth3", "ifcfg-serv2: DEVICE: found 'eth3'; allowed: eth2"),
        ("eth0", "PREFIX=24", "PREFIX=16", "ifcfg-eth0: IPADDR: found '10.1.0.1/16'; allowed: 10.1.0.1/24"),
        ("eth0", "IPV6ADDR=fd00:1::1/64\n", "", "ifcfg-eth0: IPV6ADDR: missing; allowed: fd00:1::1/64"),
        ("eth0", "BOOTPROTO=static", "BOOTPROTO=dhcp", "ifcfg-eth0: method: found 'dhcp'; allowed: static"),
        ("eth0", "ARPCHECK=no\n", "", "ifcfg-eth0: ARPCHECK: missing; allowed: no: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_red_hats_files(
    box: "Box", ifupdown_office: model.Config, name: str, old: str, new: str, problem: str
) -> None:
    assert IFCFG[name].count(old) == 1
    _write_red_hat(box, **{name: IFCFG[name].replace(old, new)})
    assert any(f"{box.ifcfg}/{problem}" in found for found in _check(ifupdown_office)), _check(ifupdown_office)


def test_red_hats_files_are_missing(box: "Box", ifupdown_office: model.Config) -> None:
    _write_red_hat(box, **{"serv2.bak": IFCFG["serv2"]})
    (box.ifcfg / "ifcfg-serv2").unlink()
    assert _check(ifupdown_office) == [
        f"{box.ifcfg}/ifcfg-serv2: missing; allowed: with the addresses and the MAC of serv2"
    ]


def _real_programs(box: "Box") -> None:
    """Debian's own ifup and ifdown, on our file; the host's hook scripts are none of the test's business."""
    state = box.root / "ifstate"
    state.mkdir()
    for name in ("ifup", "ifdown"):
        real = shutil.which(name, path="/usr/sbin:/sbin")
        assert real, "the package ifupdown is missing: tests/host-packages installs it"
        log = f"echo {name} $* >>{box.root}/calls"
        box.program(name, f'{log}\nexec {real} -i {box.interfaces} --state-dir={state} --no-scripts "$@"')


def _stand_ins(box: "Box") -> None:
    for name in ("ifup", "ifdown"):
        box.program(name, f"echo {name} $* >>{box.root}/calls\n{RED_HAT}")


def _calls(box: "Box") -> list[str]:
    return (box.root / "calls").read_text().splitlines()


def _place(config: model.Config, group: str) -> network.Place:
    return network.place(config, group, config.me())


@pytest.mark.parametrize("system", ["debian", "red hat"])
def test_up_and_down(lan: "Lan", box: "Box", ifupdown_office: model.Config, system: str) -> None:
    """Both groups: right MAC, the lease at once, verified from outside; then all of it gone."""
    if system == "debian":
        _write_debian(box)
        _real_programs(box)
    else:
        _write_red_hat(box)
        _stand_ins(box)
    assert network.prepare(ifupdown_office) == []
    parked = nic.macs()
    for group, mac in (("serv1", "00:10:4b:63:1c:08"), ("serv2", "00:10:4b:63:1c:35")):
        where = _place(ifupdown_office, group)
        ownership.enter(group, 1, ownership.HELD)
        network.raise_group(ifupdown_office, where)
        assert nic.mac(where.interface) == mac
        found = lan.addresses("serv1", where.interface)
        for address in where.addresses:
            assert found[address.partition("/")[0]]["valid_life_time"] in {1, 2}
        assert network.verify(ifupdown_office, where) == "10.1.0.254 answered"
    assert not os.path.exists(paths.EVENTS)
    name = "eth2=serv2" if system == "debian" else "serv2"
    assert [call for call in _calls(box) if call.startswith("ifup")] == ["ifup eth0", f"ifup {name}"]
    assert lan.pings("router", "10.1.0.1") and lan.pings("router", "10.1.0.2")
    for group in ("serv2", "serv1"):
        network.drop_group(ifupdown_office, _place(ifupdown_office, group))
        ownership.enter(group, 1, ownership.FREE)
    assert nic.macs() == parked
    assert nic.carrier("eth0") and nic.carrier("eth2")
    lan.wait_until(lambda: lan.pings("router", "10.1.0.11"))  # ifdown has had the link down
    assert not lan.pings("router", "10.1.0.2")


def test_after_a_lapse_ifup_thinks_it_is_up_and_the_address_comes_back(
    lan: "Lan", box: "Box", ifupdown_office: model.Config
) -> None:
    _write_debian(box)
    _real_programs(box)
    network.prepare(ifupdown_office)
    where = _place(ifupdown_office, "serv2")
    network.raise_group(ifupdown_office, where)
    lan.wait_until(lambda: len(network.missing(where)) == 2)
    network.raise_group(ifupdown_office, where)
    assert network.missing(where) == [] and lan.pings("router", "10.1.0.2")


def test_a_wrong_mac_in_the_file_never_reaches_the_wire(lan: "Lan", box: "Box", ifupdown_office: model.Config) -> None:
    _write_debian(box, peer=PEER.replace("1c:35", "1c:36"))
    _real_programs(box)
    problem = f"{box.root}/peers.d/serv2: iface serv2 inet: hwaddress: found '00:10:4b:63:1c:36'"
    assert network.prepare(ifupdown_office)[0].startswith(problem)
    before = nic.mac("eth2")
    with pytest.raises(Failed, match="hwaddress: found"):
        network.raise_group(ifupdown_office, _place(ifupdown_office, "serv2"))
    assert nic.mac("eth2") == before
    assert not any(call.startswith("ifup") for call in _calls(box))


def test_an_ifup_that_fails_is_told_and_the_group_is_served(
    lan: "Lan", box: "Box", ifupdown_office: model.Config
) -> None:
    _write_debian(box)
    for name in ("ifup", "ifdown"):
        box.program(name, f"echo {name} $* >>{box.root}/calls\necho 'nothing works today' >&2\nexit 1")
    where = _place(ifupdown_office, "serv2")
    network.raise_group(ifupdown_office, where)
    assert lan.pings("router", "10.1.0.2")
    assert _calls(box) == ["ifup eth2=serv2", "ifdown --force eth2=serv2", "ifup eth2=serv2"]
    with open(paths.EVENTS, encoding="utf-8") as file:
        assert "ifup-failed" in file.read()
