"""Heartbeats: what is believed, and that nothing else is ever more than counted."""

import errno
import json
import os
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd import heartbeat, paths, state
from clusterd.errors import Failed
from clusterd.heartbeat import LATE, MAGIC, SIZE, Doorkeeper, Rejected, Word, body, decode, next_incarnation, seal
from clusterd.picture import Claim
from clusterd.word import EPOCHS

if TYPE_CHECKING:
    from unit.conftest import Box
    from unit.lan import Lan

pytest_plugins = ["lan"]

KEY = b"a secret of the cluster"
KEYS = (KEY,)
HB, LAN = "heartbeat", "lan"
NODES = ("serv2",)
"""The peers of serv1, which listens."""


def word(**about: Any) -> Word:
    known: dict[str, Any] = {
        "node": "serv2",
        "incarnation": 100,
        "sequence": 1,
        "boot": "b2",
        "groups": {"serv1": Claim(3, "serv1"), "serv2": Claim(5, "serv2", True, False, 0)},
        "standby": "",
        "reach": 2,
        "asked": 2,
        "lan": True,
        "hears": ("serv1",),
        "digest": "0" * 16,
        "clock": 1.5e9,
    }
    return Word(**{**known, **about})


def packet(path: str = HB, key: bytes = KEY, **about: Any) -> bytes:
    return seal(body(word(**about)), path, key)


def signed(content: bytes) -> bytes:
    return seal(content, HB, KEY)


@pytest.fixture
def door(box: "Box") -> Doorkeeper:
    return Doorkeeper("serv1", NODES, KEYS)


# --- there and back ---


def test_what_is_said_is_what_is_heard() -> None:
    for said in (word(), word(reach=None, groups={}, hears=()), word(standby="person", clock=0.0)):
        assert decode(seal(body(said), HB, KEY), HB, KEYS) == said


def test_an_intention_is_told() -> None:
    said = word(groups={"serv1": Claim(3, "serv1", False, True, 4)})
    assert decode(seal(body(said), HB, KEY), HB, KEYS).groups["serv1"].taking == 4


def test_with_the_longest_names_a_datagram_of_four_nodes_is_not_fragmented() -> None:
    names = [f"{number}".rjust(63, "n") for number in range(4)]
    groups = {name: Claim(10**6, name, True, True, 10**6) for name in names}
    said = word(node=names[0], boot="b" * 36, groups=groups, hears=tuple(names[1:]), sequence=10**9)
    assert len(seal(body(said), HB, KEY)) <= SIZE


# --- what is not believed ---


def test_a_datagram_is_believed_and_nothing_is_counted(door: Doorkeeper) -> None:
    assert door.admit(packet(), HB) == word()
    assert door.rejected == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packet(key=b"another"), "signature"),
        (packet(path=LAN), "signature"),
        (packet()[:-1] + b"x", "signature"),
        (b"clusterd0" + packet()[len(MAGIC) :], "foreign"),
        (b"GET / HTTP/1.0\r\nHost: 10.1.0.1\r\nAccept: */*\r\n\r\n", "foreign"),
        (b"", "short"),
        (MAGIC, "short"),
        (packet(node="serv3"), "stranger"),
        (packet(node=""), "stranger"),
        (signed(b"no JSON"), "malformed"),
        (signed(b"[1, 2]"), "malformed"),
        (signed(b"null"), "malformed"),
        (signed(b"{}"), "malformed"),
        (signed(b"\xff\xfe{}"), "malformed"),
        (signed(b"[" * 100_000), "malformed"),
        (signed(b'{"node": "serv2"}'), "malformed"),
    ],
)
def test_what_is_not_believed_is_counted(door: Doorkeeper, data: bytes, reason: str) -> None:
    assert door.admit(data, HB) is None
    assert door.rejected == {reason: 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("incarnation", "many"),
        ("incarnation", None),
        ("incarnation", 1e400),
        ("sequence", []),
        ("groups", []),
        ("groups", {"serv1": 3}),
        ("groups", {"serv1": [3, "serv1"]}),
        ("groups", {"serv1": [3, "serv1", True, False, "soon"]}),
        ("groups", None),
        ("reach", "two"),
        ("hears", None),
        ("hears", 3),
        ("clock", "noon"),
        ("clock", {}),
    ],
)
def test_a_right_signature_does_not_make_a_field_right(door: Doorkeeper, field: str, value: object) -> None:
    fields = {**json.loads(body(word())), field: value}
    assert door.admit(signed(json.dumps(fields).encode()), HB) is None
    assert door.rejected == {"malformed": 1}


def test_a_node_without_the_newest_version_is_believed(door: Doorkeeper) -> None:
    """Nodes are upgraded one after the other."""
    fields = json.loads(body(word()))
    del fields["arbiter"]
    admitted = door.admit(signed(json.dumps(fields).encode()), HB)
    assert admitted is not None and admitted.arbiter


def test_a_version_that_does_not_say_what_it_has_seen_is_heard(door: Doorkeeper) -> None:
    """Only more than two nodes need it: an upgrade, one node after the other, moves nothing."""
    fields = json.loads(body(word()))
    del fields["seen"]
    admitted = door.admit(signed(json.dumps(fields).encode()), HB)
    assert admitted is not None and admitted.seen == {}
    fields["seen"], fields["sequence"] = {"serv1": 5}, 2
    assert door.admit(signed(json.dumps(fields).encode()), HB) is None


@pytest.mark.parametrize("field", [field for field in Word._fields if field not in Word._field_defaults])
def test_no_field_may_be_missing(door: Doorkeeper, field: str) -> None:
    fields = json.loads(body(word()))
    del fields[field]
    assert door.admit(signed(json.dumps(fields).encode()), HB) is None
    assert door.rejected == {"malformed": 1}


def test_truncated_anywhere_it_is_not_believed(door: Doorkeeper) -> None:
    data = packet()
    for length in range(len(data)):
        assert door.admit(data[:length], HB) is None
    assert sum(door.rejected.values()) == len(data)
    assert door.admit(data, HB) is not None


def test_with_any_bit_turned_it_is_not_believed(door: Doorkeeper) -> None:
    data = packet()
    for at in range(len(data)):
        turned = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert door.admit(turned, HB) is None


def test_our_own_is_neither_believed_nor_counted(door: Doorkeeper) -> None:
    """What is sent to an address that moved here meanwhile comes back."""
    assert door.admit(packet(node="serv1"), HB) is None
    assert door.rejected == {}


# --- replays ---


def test_twice_it_is_taken_once_and_not_counted(door: Doorkeeper) -> None:
    """The network doubles datagrams, and a node may have several addresses."""
    assert door.admit(packet(), HB) is not None
    assert door.admit(packet(), HB) is None
    assert door.rejected == {}


def test_the_same_word_comes_once_on_every_path(door: Doorkeeper) -> None:
    assert door.admit(packet(HB), HB) is not None
    assert door.admit(packet(LAN), LAN) is not None


def test_recorded_on_one_path_it_is_nothing_on_another(door: Doorkeeper) -> None:
    assert door.admit(packet(HB, sequence=7), LAN) is None
    assert door.rejected == {"signature": 1}


def test_a_little_late_is_no_attack_but_not_believed_either(door: Doorkeeper) -> None:
    door.admit(packet(sequence=LATE + 1), HB)
    assert door.admit(packet(sequence=1), HB) is None
    assert door.rejected == {}


def test_an_old_one_is_a_replay(door: Doorkeeper) -> None:
    door.admit(packet(sequence=LATE + 2), HB)
    assert door.admit(packet(sequence=1), HB) is None
    assert door.rejected == {"replayed": 1}


def test_after_a_restart_of_the_sender_it_begins_anew(door: Doorkeeper) -> None:
    door.admit(packet(sequence=5000), HB)
    assert door.admit(packet(incarnation=101, sequence=1), HB) is not None


def test_what_was_recorded_before_a_restart_of_the_sender_is_a_replay(door: Doorkeeper) -> None:
    door.admit(packet(incarnation=101), HB)
    assert door.admit(packet(incarnation=100, sequence=9000), HB) is None
    assert door.admit(packet(LAN, incarnation=100, sequence=9000), LAN) is None, "on a path not heard yet"
    assert door.rejected == {"replayed": 2}


def test_what_was_recorded_before_a_restart_of_the_receiver_is_a_replay(door: Doorkeeper) -> None:
    door.admit(packet(incarnation=101), HB)
    again = Doorkeeper("serv1", NODES, KEYS)
    assert again.admit(packet(incarnation=100, sequence=9000), HB) is None
    assert again.rejected == {"replayed": 1}
    assert again.admit(packet(incarnation=101, sequence=2), HB) is not None


def test_an_unreadable_memory_of_the_peer_stops_nothing(box: "Box") -> None:
    os.makedirs(paths.PEERS)
    for damaged in ("", "{", "[]", '{"incarnation": "x"}', "null"):
        (box.state / "peers" / "serv2.json").write_text(damaged)
        assert Doorkeeper("serv1", NODES, KEYS).admit(packet(), HB) is not None


def test_keeping_an_incarnation_is_left_to_the_caller_who_wants_it(box: "Box") -> None:
    kept: list[tuple[str, int]] = []
    door = Doorkeeper("serv1", NODES, KEYS, lambda node, incarnation: kept.append((node, incarnation)))
    door.admit(packet(), HB)
    door.admit(packet(sequence=2), HB)
    door.admit(packet(incarnation=101), HB)
    assert kept == [("serv2", 100), ("serv2", 101)]
    assert not os.path.exists(paths.PEERS)


def test_incarnations_rise_whatever_the_clock_does(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.5)
    assert next_incarnation() == 1000
    assert next_incarnation() == 1001
    monkeypatch.setattr("time.time", lambda: 10.0)
    assert next_incarnation() == 1002
    monkeypatch.setattr("time.time", lambda: 5000.0)
    assert next_incarnation() == 5000


def test_they_rise_on_a_disk_that_takes_nothing(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.5)
    assert next_incarnation() == 1000
    write = state.write

    def full(path: str, fact: Any, **how: Any) -> None:
        if path.startswith(paths.STATE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        write(path, fact, **how)

    with monkeypatch.context() as broken:
        broken.setattr(state, "write", full)
        assert next_incarnation() == 1001
        assert next_incarnation() == 1002
    assert next_incarnation() == 1003


def test_a_damaged_incarnation_is_told_not_guessed(box: "Box") -> None:
    (box.state / "incarnation").write_text("{")
    with pytest.raises(Failed, match="incarnation"):
        next_incarnation()


# --- fuzz ---

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
name = st.text(max_size=8).filter(str.isprintable)
fuzz = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def harmless(door: Doorkeeper, data: bytes) -> None:
    """Believed, counted or known to be harmless; never an exception."""
    before = sum(door.rejected.values())
    if door.admit(data, HB) is None:
        assert sum(door.rejected.values()) in (before, before + 1)


@fuzz
@given(data=st.binary(max_size=200))
def test_random_bytes(door: Doorkeeper, data: bytes) -> None:
    harmless(door, data)
    harmless(door, MAGIC + data)
    assert door.last == {}


@fuzz
@given(content=st.binary(max_size=200))
def test_random_bytes_well_signed(door: Doorkeeper, content: bytes) -> None:
    harmless(door, signed(content))


@fuzz
@given(content=anything)
def test_any_json_well_signed(door: Doorkeeper, content: Any) -> None:
    harmless(door, signed(json.dumps(content).encode()))


@fuzz
@given(field=st.sampled_from(Word._fields), value=anything)
def test_any_value_in_any_field_well_signed(door: Doorkeeper, field: str, value: Any) -> None:
    harmless(door, signed(json.dumps({**json.loads(body(word())), field: value}).encode()))


@given(
    groups=st.dictionaries(
        name,
        st.builds(Claim, st.integers(0, EPOCHS), name, st.booleans(), st.booleans(), st.integers(0, EPOCHS)),
        max_size=4,
    ),
    reach=st.one_of(st.none(), st.integers(0, 9)),
    hears=st.lists(name, max_size=3).map(tuple),
    path=st.text(max_size=8),
)
def test_any_word_comes_through(groups: dict[str, Claim], reach: int | None, hears: tuple[str, ...], path: str) -> None:
    said = word(groups=groups, reach=reach, hears=hears)
    assert decode(seal(body(said), path, KEY), path, KEYS) == said
    with pytest.raises(Rejected):
        decode(seal(body(said), path, KEY), path + "x", KEYS)


# --- sockets ---


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_path_speaks_and_hears_and_never_waits() -> None:
    port = free_port()
    path = heartbeat.Path(HB, "lo", port, {"serv2": ("127.0.0.1",)})
    try:
        assert path.receive() == []
        assert path.send(b"one")
        assert path.send(b"two")
        assert path.receive() == [b"one", b"two"]
    finally:
        path.close()


def test_a_flood_does_not_keep_the_loop_from_turning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends faster than one reads would be read for ever."""
    monkeypatch.setattr(heartbeat, "AT_ONCE", 10)
    path = heartbeat.Path(HB, "lo", free_port(), {"serv2": ("127.0.0.1",)})
    try:
        for _ in range(25):
            assert path.send(b"flood")
        assert [len(path.receive()) for _ in range(4)] == [10, 10, 5, 0]
    finally:
        path.close()


def test_one_address_of_a_peer_that_takes_it_is_enough() -> None:
    path = heartbeat.Path(HB, "lo", free_port(), {"serv2": ("127.0.0.1", "203.0.113.9")})
    try:
        assert path.send(b"word")
    finally:
        path.close()


def test_a_path_over_ipv6() -> None:
    path = heartbeat.Path(HB, "lo", free_port(), {"serv2": ("::1",)})
    try:
        assert path.send(b"word")
        assert path.receive() == [b"word"]
    finally:
        path.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_it_says_leaves_the_machine_before_files(address: str) -> None:
    """To set the type of service sets the priority once more: to the ordinary one."""
    path = heartbeat.Path(HB, "lo", free_port(), {"serv2": (address,)})
    try:
        (sock,) = path._sockets.values()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 6
        v6 = sock.family == socket.AF_INET6
        of = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if v6 else (socket.IPPROTO_IP, socket.IP_TOS)
        assert sock.getsockopt(*of) == 0xC0
    finally:
        path.close()


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        with pytest.raises(Failed, match=f"heartbeat port {port} on lo: Address already in use"):
            heartbeat.Path(HB, "lo", port, {"serv2": ("127.0.0.1",)})


def test_a_nic_that_comes_goes_and_is_replaced_is_followed(lan: "Lan") -> None:
    path = heartbeat.Path(HB, "eth1", 694, {"serv2": ("192.168.111.2",)})
    try:
        assert not path.send(b"nobody") and path.receive() == []
        for number in (1, 2):
            lan.ip("serv1", f"link add eth1 type veth peer name eth1 netns {lan.ns('serv2')}")
            for node in (1, 2):
                lan.ip(f"serv{node}", f"addr add 192.168.111.{node}/24 dev eth1")
                lan.ip(f"serv{node}", "link set eth1 up")
            lan.enter("serv2")
            other = heartbeat.Path(HB, "eth1", 694, {"serv1": ("192.168.111.1",)})
            lan.enter("serv1")
            assert path.send(f"{number}".encode()) and other.send(f"{number} back".encode())
            assert select.select([path], [], [], 5)[0] == [path]
            assert path.receive() == [f"{number} back".encode()]
            assert select.select([other], [], [], 5)[0] == [other]
            assert other.receive() == [f"{number}".encode()]
            lan.ip("serv1", "link del eth1")
            assert not path.send(b"gone") and path.receive() == []
            other.close()
    finally:
        path.close()


def test_what_is_remembered_is_one_number(door: Doorkeeper) -> None:
    door.admit(packet(), HB)
    assert state.read(f"{paths.PEERS}/serv2.json") == {"incarnation": 100}
