"""ARP and neighbour discovery, asked of and told to real kernels."""

import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd import arp, model, ndp, netsettings, network, nic
from clusterd.arp import Answer, Socket

if TYPE_CHECKING:
    from unit.lan import Lan

pytest_plugins = ["lan"]

STRANGER = "02:00:00:00:00:99"


@pytest.fixture
def wire(lan: "Lan") -> Iterator[socket.socket]:
    """All that arrives at the router; the test is inside serv1, whose NICs are up and have no address."""
    lan.enter("router")
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.bind(("eth0", 3))
    tap.settimeout(1)
    lan.enter("serv1")
    for name in ("eth0", "eth2"):
        netsettings.write(f"ipv6/conf/{name}/addr_gen_mode", "1")
        lan.ip("serv1", f"link set {name} up")
    with tap:
        yield tap


def _next(wire: socket.socket, kind: int) -> bytes:
    while True:
        frame, where = wire.recvfrom(2000)
        if where[2] != 4 and frame[12:14] == struct.pack("!H", kind):
            return frame


def _answers(sock: Socket, timeout: float = 0.3) -> list[Answer]:
    return sock.read() if select.select([sock], [], [], timeout)[0] else []


def _mac(lan: "Lan", node: str) -> str:
    return str(lan.ip(node, "link show dev eth0")[0]["address"])


@pytest.mark.parametrize("target", ["10.1.0.254", "fd00:1::fe", "FD00:1:0::FE"])
def test_a_probe_without_any_address_is_answered(lan: "Lan", wire: socket.socket, target: str) -> None:
    with Socket("eth0") as sock:
        assert sock.probe(target)
        assert _answers(sock) == [Answer(target, _mac(lan, "router"))]
        assert sock.read() == []


def test_questions_and_announcements_leave_the_machine_before_files(lan: "Lan", wire: socket.socket) -> None:
    with Socket("eth0") as sock:
        sock.probe("10.1.0.254")
        assert [each.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) for each in sock._sockets.values()] == [6]
    arp.announce("eth0", STRANGER, ["10.1.0.1"])
    assert arp._sender
    assert arp._sender.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 6


def test_nobody_answers_for_nobodys_address(wire: socket.socket) -> None:
    with Socket("eth0") as sock:
        assert sock.probe("10.1.0.77") and sock.probe("fd00:1::77")
        assert _answers(sock) == []


def test_an_arp_probe_is_as_rfc_5227_wants_it(wire: socket.socket) -> None:
    with Socket("eth2") as sock:
        sock.probe("10.1.0.254")
    frame = _next(wire, 0x0806)
    own = bytes.fromhex((nic.mac("eth2") or "").replace(":", ""))
    assert frame[:12] == b"\xff" * 6 + own
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert frame[22:42] == own + bytes(4) + bytes(6) + socket.inet_aton("10.1.0.254")


def test_a_neighbour_probe_is_as_rfc_4862_wants_it(wire: socket.socket) -> None:
    with Socket("eth2") as sock:
        sock.probe("fd00:1::fe")
    frame = _next(wire, 0x86DD)
    # Until it is not one that the kernel sends for its own link-local address.
    while frame[62:78] != socket.inet_pton(socket.AF_INET6, "fd00:1::fe"):
        frame = _next(wire, 0x86DD)
    assert frame[:6] == bytes.fromhex("3333ff0000fe")
    assert frame[22:38] == bytes(16), "from the unspecified address"
    assert socket.inet_ntop(socket.AF_INET6, frame[38:54]) == "ff02::1:ff00:fe"
    assert frame[21] == 255 and frame[54] == ndp.SOLICITATION
    assert len(frame) == 14 + 40 + 24, "no source link-layer option"


def test_a_question_from_an_own_address_is_answered_to_it(lan: "Lan", wire: socket.socket) -> None:
    lan.ip("serv1", "addr add 10.1.0.1/24 dev eth0")
    lan.ip("serv1", "addr add fd00:1::1/64 dev eth0 nodad")
    with Socket("eth0", ipv6=True) as sock:
        for target, source in (("10.1.0.254", "10.1.0.1/24"), ("fd00:1::fe", "fd00:1::1/64")):
            assert sock.ask(target, source)
            assert sock.wait_for([target], 0.5) == target
            assert lan.neighbour("router", source.partition("/")[0]) == nic.mac("eth0")


@pytest.mark.parametrize("address", ["10.1.0.1", "fd00:1::1"])
@pytest.mark.parametrize("through_socket", [True, False])
def test_an_announcement_moves_the_address_in_others_tables(
    lan: "Lan", wire: socket.socket, address: str, through_socket: bool
) -> None:
    lan.ip("router", f"neigh replace {address} lladdr {STRANGER} dev eth0 nud reachable")
    own = nic.mac("eth0")
    assert own
    if through_socket:
        with Socket("eth0") as sock:
            assert sock.announce(own, address)
    else:
        assert arp.announce("eth0", own, [address])
    lan.wait_until(lambda: lan.neighbour("router", address) == own)
    assert lan.port(own) == "serv1-eth0"


def test_announcements_of_others_are_heard(lan: "Lan", wire: socket.socket) -> None:
    with Socket("eth0", ipv6=True) as sock:
        lan.enter("serv2")
        lan.ip("serv2", "link set eth0 up")
        lan.wait_until(lambda: nic.carrier("eth0"))
        arp.announce("eth0", STRANGER, ["10.1.0.2", "fd00:1::2"])
        lan.enter("serv1")
        time.sleep(0.1)
        assert set(_answers(sock)) == {Answer("10.1.0.2", STRANGER), Answer("fd00:1::2", STRANGER)}


def test_the_chatter_of_a_lan_wakes_nobody(lan: "Lan", wire: socket.socket) -> None:
    with Socket("eth0", ipv6=True) as sock:
        lan.run("router", "ping", "-n", "-c2", "-i0.05", "-W0.1", "10.1.0.99")
        lan.run("router", "ping", "-n", "-c2", "-i0.05", "-W0.1", "fd00:1::99")
        lan.run("router", "ping", "-n", "-b", "-c2", "-i0.05", "-W0.1", "10.1.0.255")
        assert select.select([sock], [], [], 0)[0] == []


def test_own_nics_are_not_a_peer(lan: "Lan", wire: socket.socket) -> None:
    """Linux answers on eth0 what is asked on eth2: with two NICs on one LAN the own kernel is heard."""
    lan.ip("serv1", "addr add 10.1.0.1/24 dev eth0")
    with Socket("eth2") as sock:
        assert sock.probe("10.1.0.1")
        assert select.select([sock], [], [], 0.5)[0], "it did answer"
        assert sock.read() == []


def test_a_holder_with_the_clusters_settings_answers_probes(
    lan: "Lan", wire: socket.socket, office: model.Config
) -> None:
    """The other side of the question: arp_ignore and arp_announce must not hide a holder from a peer."""
    for group in ("serv1", "serv2"):
        network.raise_group(office, network.place(office, group, office.me()))
    lan.enter("router")
    with Socket("eth0") as sock:
        for target, mac in (("10.1.0.2", "00:10:4b:63:1c:35"), ("10.1.0.1", "00:10:4b:63:1c:08")):
            sock.probe(target)
            assert _answers(sock) == [Answer(target, mac)]
        sock.probe("fd00:1::2")
        assert _answers(sock) == [Answer("fd00:1::2", "00:10:4b:63:1c:35")]


def test_a_silent_nic_answers_nobody(lan: "Lan", wire: socket.socket, office: model.Config) -> None:
    network.prepare(office)
    lan.ip("serv1", "addr add 10.1.0.2/24 dev eth2")
    lan.enter("router")
    with Socket("eth0") as sock:
        sock.probe("10.1.0.2")
        assert [answer.mac for answer in _answers(sock)] != [str(lan.ip("serv1", "link show dev eth2")[0]["address"])]


def test_a_nic_that_goes_down_and_away_and_comes_back(lan: "Lan", wire: socket.socket) -> None:
    with Socket("eth2", ipv6=True) as sock:
        lan.ip("serv1", "link set eth2 down")
        assert not sock.probe("10.1.0.254") and not sock.announce(STRANGER, "fd00:1::1")
        assert sock.read() == []
        lan.ip("serv1", "link set eth2 up")
        lan.wait_until(lambda: nic.carrier("eth2"))
        assert sock.probe("10.1.0.254") and len(_answers(sock)) == 1
        lan.ip("serv1", "link del eth2")
        assert not sock.probe("10.1.0.254") and sock.read() == []
        assert not sock.probe("fd00:1::fe")
        lan.ip("switch", f"link add again type veth peer name eth2 netns {lan.ns('serv1')}")
        lan.ip("switch", "link set again master br0 up")
        lan.ip("serv1", "link set eth2 up")
        lan.wait_until(lambda: nic.carrier("eth2"))
        assert sock.probe("10.1.0.254") and len(_answers(sock)) == 1


def test_a_nic_that_is_not_there_yet(lan: "Lan", wire: socket.socket) -> None:
    with Socket("eth9", ipv6=True) as sock:
        assert not sock.probe("10.1.0.254") and sock.read() == []
        lan.ip("serv1", "link set eth2 down")
        lan.ip("serv1", "link set eth2 name eth9 up")
        lan.wait_until(lambda: nic.carrier("eth9"))
        assert sock.probe("10.1.0.254") and len(_answers(sock)) == 1
    assert not arp.announce("eth2", STRANGER, ["10.1.0.1"])


def test_a_flood_does_not_hold_the_reader(lan: "Lan", wire: socket.socket) -> None:
    with Socket("eth0") as sock:
        lan.enter("router")
        for _ in range(500):
            arp.announce("eth0", STRANGER, ["10.1.0.2"])
        lan.enter("serv1")
        time.sleep(0.1)
        start = time.monotonic()
        assert 0 < len(sock.read()) <= 256
        assert time.monotonic() - start < 1


@given(st.binary(max_size=200))
def test_garbage_claims_nothing(frame: bytes) -> None:
    assert ndp.parse(frame) is None
    assert ndp.parse(bytes(12) + b"\x86\xdd" + frame) is None
    claim = arp._parse(bytes(12) + b"\x08\x06" + frame)
    assert claim is None or len(claim[0]) == 4


@given(st.data())
def test_a_damaged_advertisement_claims_nothing(data: st.DataObject) -> None:
    frame = bytearray(ndp.advertisement(nic.packed("fd00:1::1"), bytes.fromhex("001122334455")))
    assert ndp.parse(bytes(frame)) == (nic.packed("fd00:1::1"), bytes.fromhex("001122334455"))
    place = data.draw(st.integers(54, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    assert ndp.parse(bytes(frame)) is None
    assert ndp.parse(bytes(frame[: data.draw(st.integers(0, len(frame) - 1))])) is None
