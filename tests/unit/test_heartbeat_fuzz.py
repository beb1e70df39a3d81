"""Hostile heartbeats: from strangers, and from a peer that has the key and has gone wrong.

Whatever comes in, the doorkeeper raises nothing, believes nothing that is not in order, counts what it refuses; and
what it does believe never makes the watchdog's loop raise later.
"""

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd import model, ownership, state, verdict, view, word
from clusterd.heartbeat import Doorkeeper
from clusterd.peers import Peers, rules_of
from clusterd.picture import Claim, Me, Own
from clusterd.word import EPOCHS, LARGEST, MAGIC, SIZE, Word, body, seal

if TYPE_CHECKING:
    from unit.conftest import Box

KEY, OTHER = b"a secret of the cluster", b"the one that is coming"
HB, LAN = "heartbeat", "lan"
NOW = 1000.0
many = settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def genuine(**about: Any) -> Word:
    known: dict[str, Any] = {
        "node": "serv2",
        "incarnation": 1_700_000_000,
        "sequence": 7,
        "boot": "0d2c0000-0000-4000-8000-000000000000",
        "groups": {"serv1": Claim(3, "serv1"), "serv2": Claim(5, "serv2", True, False, 0)},
        "standby": "",
        "reach": 2,
        "asked": 2,
        "lan": True,
        "hears": ("serv1",),
        "digest": "0" * 16,
        "clock": 1.7e9,
        "nonce": "n2",
        "echo": ("n1",),
    }
    return Word(**{**known, **about})


FIELDS: dict[str, Any] = json.loads(body(genuine()))
DATAGRAMS = [seal(body(genuine(sequence=number)), path, KEY) for number, path in enumerate((HB, LAN, "plant"), 1)] + [
    seal(body(genuine(groups={}, reach=None, hears=(), standby="person")), HB, OTHER)
]


def open_door() -> Doorkeeper:
    epochs = {"serv1": 3, "serv2": 5}
    return Doorkeeper("serv1", ("serv2",), (KEY, OTHER), lambda *_: None, nonce="n1", epoch=epochs.get)


@pytest.fixture(scope="module")
def tried() -> Any:
    """How many were tried, for the last line."""
    counts = {"strangers": 0, "signed": 0, "believed": 0}
    yield counts


def memory(door: Doorkeeper) -> Any:
    """All that a datagram could change and that counts; not the nonces to repeat, which a signed one may."""
    return dict(door.last), dict(door.newest), dict(door.incarnations)


# --- without the key -------------------------------------------------------------------------------------------------


paths = st.sampled_from([HB, LAN])
at = st.integers(0, 1 << 12)
genuine_ones = st.sampled_from(DATAGRAMS)
tricks = st.sampled_from(["random", "flip", "cut", "longer", "splice", "insert", "other path", "other key"])
openings, rubbish = st.sampled_from([b"", MAGIC, MAGIC + bytes(32)]), st.binary(max_size=SIZE)
times, flips = st.integers(1, 8), st.integers(1, 255)
tails, inserted = st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=9)
other_paths = st.sampled_from(["plant", "", HB + "x", "Heartbeat"])
other_keys = st.binary(max_size=40).filter(lambda key: key not in (KEY, OTHER))


@st.composite
def forged(draw: st.DrawFn) -> tuple[bytes, str]:
    """Bytes that nobody with the key has made for this path: random, or a genuine datagram that was tampered with."""
    path = draw(paths)
    old = draw(genuine_ones)
    how = draw(tricks)
    if how == "random":
        return draw(openings) + draw(rubbish), path
    if how == "flip":
        changed = bytearray(old)
        for _ in range(draw(times)):
            changed[draw(at) % len(changed)] ^= draw(flips)
        return bytes(changed), path
    if how == "cut":
        return old[: draw(at) % len(old)], path
    if how == "longer":
        return old + draw(tails), path
    if how == "splice":
        one = draw(at) % len(old)
        return old[:one] + draw(genuine_ones)[draw(at) % len(old) :], path
    if how == "insert":
        one = draw(at) % len(old)
        return old[:one] + draw(inserted) + old[one:], path
    if how == "other path":
        return seal(body(genuine()), draw(other_paths), KEY), path
    return seal(body(genuine()), path, draw(other_keys)), path


@many
@given(data=forged())
def test_nothing_forged_is_believed_or_leaves_a_trace(tried: dict[str, int], data: tuple[bytes, str]) -> None:
    tried["strangers"] += 1
    door = open_door()
    before = memory(door)
    word_of_it = door.admit(*data)
    if data[0] in DATAGRAMS and word_of_it:
        return  # it was put together again as it had been
    assert word_of_it is None
    assert memory(door) == before or data[0] in DATAGRAMS
    assert sum(door.rejected.values()) == 1 or data[0] in DATAGRAMS


# --- with the key ----------------------------------------------------------------------------------------------------

odd_numbers = st.one_of(
    st.sampled_from([-1, 0, 1, 2**31, 2**53, 2**53 + 1, 2**62, 2**63, 2**64, 10**15, 10**18, 10**30, -(2**63)]),
    st.sampled_from([True, False, 1.0, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf, "1", None]),
    st.integers(),
)
odd_text = st.one_of(
    st.sampled_from(["", "serv1", "serv2", "serv9", "../serv1", "serv1\n", "a\0b", "\x1b[2J", "x" * 64, "x" * 65536]),
    st.sampled_from(["\ud800", "\u202eserv1", "%s{0}", "$(id)", "person", "program", "None"]),
    st.text(max_size=12),
)
odd = odd_numbers | odd_text
anything: st.SearchStrategy[Any] = odd
for _ in range(3):  # drawn five times as fast as st.recursive; what is really deep comes below
    anything = odd | st.lists(anything, max_size=3) | st.dictionaries(odd_text, anything, max_size=2)
claims = st.one_of(anything, st.tuples(odd_numbers, odd_text, anything, anything, odd_numbers).map(list))
good_claims = st.builds(
    lambda epoch, holder, held, pinned, taking: [epoch, holder, held, pinned, taking],
    st.integers(0, 2 * ownership.LEAP),
    st.sampled_from(["", "serv1", "serv2", "serv9"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0, 4, 6, ownership.LEAP]),
)

# Made once: a strategy that is made for each drawing costs more than what it draws.
kinds = st.sampled_from(["field", "field", "fields", "groups", "credible", "missing", "extra", "deep", "bytes"])
some_bytes = st.binary(max_size=300) | st.sampled_from([b"[" * 60000, b'{"a":' * 60000, b"1" * 60000])
some_field = st.sampled_from(list(FIELDS))
hostile_groups = st.dictionaries(odd_text, claims, max_size=4)
credible = st.fixed_dictionaries(
    {
        "groups": st.dictionaries(st.sampled_from(["serv1", "serv2", "serv9", ""]), good_claims, max_size=4),
        "reach": st.none() | st.integers(0, LARGEST),
        "clock": st.sampled_from([0, 0.0, 1, 1e15, 1.7e9]),
        "standby": st.sampled_from(["", "person", "program"]),
        "lan": st.booleans(),
    }
)


@st.composite
def signed(draw: st.DrawFn) -> bytes:
    """What a peer says that has the right key and has gone wrong."""
    fields = dict(FIELDS)
    how = draw(kinds)
    if how == "bytes":
        return draw(some_bytes)
    if how == "deep":
        fields[draw(some_field)] = json.loads("[" * 400 + "]" * 400)
    for _ in range({"field": 1, "fields": 4}.get(how, 0)):
        fields[draw(some_field)] = draw(anything)
    if how == "groups":
        fields["groups"] = draw(hostile_groups)
    if how == "credible":
        fields.update(draw(credible))
    if how == "missing":
        del fields[draw(some_field)]
    if how == "extra":
        fields[draw(odd_text)] = draw(anything)
    try:
        return json.dumps(fields).encode()
    except UnicodeEncodeError:
        return b""


def go_on_with(heard: Word, settings_: model.Config) -> None:
    """What the loop does with a word: take it in, decide, publish. Nothing of it may raise."""
    peers, rules = Peers(settings_), rules_of(settings_)
    groups = {name: Own(name, 3, "serv1", held=name == "serv1", up=name == "serv1") for name in settings_.nodes}
    me = Me("serv1", groups, reach=2, started=NOW - 60)
    for later in (0.0, 0.1, 0.5, 4.0):
        if later < 0.2:
            peers.hear(heard, HB, NOW + later)
        peers.expect_lan(True, NOW + later)
        told = peers.note(rules, me, NOW + later)
        answer = verdict.decide(rules, me, told, NOW + later)
        published = view.View(
            "serv1", state.boot_id(), NOW, NOW, "", 2, 2, {}, peers.views(rules, NOW + later),
            [list(condition) for condition in answer.conditions], {},
        )  # fmt: skip
        view.write(published)
        read = view.read(stale=True)
        assert read is not None and read.peers == published.peers
        json.loads(view.text(published), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@many
@given(content=signed())
def test_a_peer_gone_wrong_raises_nothing_here(pair: model.Config, tried: dict[str, int], content: bytes) -> None:
    tried["signed"] += 1
    door = open_door()
    before = memory(door)
    heard = door.admit(seal(content, HB, OTHER), HB)
    if heard is None:
        assert memory(door) == before
        assert sum(door.rejected.values()) <= 1
        return
    tried["believed"] += 1
    assert heard.node == "serv2" and set(door.rejected) == set()
    for claim in heard.groups.values():
        assert 0 <= claim.epoch <= EPOCHS and claim.holder.isprintable()
    go_on_with(heard, pair)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("groups", {"serv1": [-1, "serv2", True, False, 0]}),
        ("groups", {"serv1": [2**63, "serv2", True, False, 0]}),
        ("groups", {"serv1": [True, "serv2", True, False, 0]}),
        ("groups", {"serv1": [4.0, "serv2", True, False, 0]}),
        ("groups", {"serv1": [4, "serv2\nnotice: all is well", True, False, 0]}),
        ("groups", {"serv1": [4, "serv2", 1, False, 0]}),
        ("groups", {f"g{number}": [1, "", False, False, 0] for number in range(100)}),
        ("incarnation", -1),
        ("incarnation", 2**63),
        ("sequence", 2**54),
        ("reach", -1),
        ("standby", "root"),
        ("hears", "serv1"),
        ("clock", -5),
        ("boot", "b" * 64),
        ("echo", {"serv1": "n1"}),
    ],
)
def test_a_field_out_of_its_bounds_is_malformed(field: str, value: Any) -> None:
    door = open_door()
    assert door.admit(seal(json.dumps({**FIELDS, field: value}).encode(), HB, KEY), HB) is None
    assert door.rejected == {"malformed": 1}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(number: str) -> None:
    content = json.dumps(FIELDS).replace('"clock": 1700000000.0', f'"clock": {number}')
    assert number in content
    door = open_door()
    assert door.admit(seal(content.encode(), HB, KEY), HB) is None
    assert door.rejected == {"malformed": 1}


def test_fields_may_be_added_by_a_later_version() -> None:
    assert open_door().admit(seal(json.dumps({**FIELDS, "mood": ["good"]}).encode(), HB, KEY), HB) == genuine()


# --- an epoch that nobody would ever reach ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", [0, 4])
@pytest.mark.parametrize("epoch", [3 + ownership.LEAP + 1, EPOCHS])
def test_an_epoch_that_no_takeovers_can_have_made_is_not_believed(field: int, epoch: int) -> None:
    claim: list[Any] = [3, "serv2", True, False, 0]
    claim[field] = epoch
    door = open_door()
    hostile = {**FIELDS, "groups": {"serv1": claim}}
    assert door.admit(seal(json.dumps(hostile).encode(), HB, KEY), HB) is None
    assert door.rejected == {"epoch": 1}
    assert door.last == {} and door.met == {}


def test_what_a_node_has_missed_with_its_disk_is_believed() -> None:
    door = Doorkeeper("serv1", ("serv2",), (KEY,), lambda *_: None, epoch=lambda _group: 0)
    said = {**FIELDS, "groups": {"serv1": [ownership.LEAP, "serv2", True, False, 0]}}
    assert door.admit(seal(json.dumps(said).encode(), HB, KEY), HB) is not None


def test_a_group_that_is_not_ours_does_not_matter() -> None:
    said = {**FIELDS, "groups": {"serv9": [EPOCHS, "serv9", True, False, 0]}}
    assert open_door().admit(seal(json.dumps(said).encode(), HB, KEY), HB) is not None


# --- two keys --------------------------------------------------------------------------------------------------------


def test_any_of_the_keys_opens_and_no_other(box: "Box") -> None:
    for key in (KEY, OTHER):
        assert open_door().admit(seal(body(genuine()), HB, key), HB) == genuine()
    alone = Doorkeeper("serv1", ("serv2",), (OTHER,), lambda *_: None)
    assert alone.admit(seal(body(genuine()), HB, KEY), HB) is None
    assert alone.rejected == {"signature": 1}


def test_with_one_key_a_datagram_costs_one_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    real = word.hmac.digest  # type: ignore[attr-defined]
    monkeypatch.setattr(word.hmac, "digest", lambda key, *rest: made.append(key) or real(key, *rest))  # type: ignore[attr-defined,func-returns-value]
    data = seal(body(genuine()), HB, KEY)
    made.clear()
    for keys, count in (((KEY,), 1), ((KEY, OTHER), 1), ((OTHER, KEY), 2)):
        word.decode(data, HB, keys)
        assert len(made) == count
        made.clear()


def test_what_was_tried(tried: dict[str, int], record_property: Callable[[str, object], None]) -> None:
    """The last one, for the last line of the run."""
    record_property(
        "tried",
        f"heartbeat: {tried['strangers']:,} forged and {tried['signed']:,} signed hostile datagrams, "
        f"{tried['believed']:,} of these in order and believed; nothing raised",
    )
