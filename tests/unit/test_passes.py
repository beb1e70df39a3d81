"""The record of passes: what survives, what counts as fresh, when a node returns."""

import time
from typing import TYPE_CHECKING

import pytest

from clusterd import passes, paths, state, view
from clusterd.errors import Failed
from clusterd.passes import Done, Held, Place, Record, Returned, Unfinished
from clusterd.setback import Moment

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture(autouse=True)
def _box(box: "Box") -> None:
    """All of it happens in a box."""


def at(moment: Moment | None) -> float:
    """The time in it."""
    assert moment is not None
    return moment.at


def test_all_of_it_comes_back() -> None:
    record = Record(
        "data",
        {"serv2": Done("serv2", 3, 1.5, 2.5, 10, 7)},
        Done("serv2", 2, 0.5, 0.75, 9),
        Unfinished("serv2", 4, 3.0, "SET", True, {"/srv/": (0o755, 0, 1)}),
        {"/srv/a/": Place(("/ ext4 fsid:1 /", "/srv/a/x xfs uuid:2 /"), False, "abc"), "/etc/x": Place(("/",))},
        Returned(4, (("/srv/a/two\nlines\udcff", True), ("/srv/a/b", False))),
        Held(3, 1.25, 2, 3, True),
    )
    passes.write(record)
    assert passes.read("data") == record
    assert passes.read("other") == Record("other")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"service": 1}', "rubbish"])
def test_a_damaged_record_is_no_empty_one(text: str) -> None:
    state.write_text(passes.path("data"), text)
    with pytest.raises(Failed, match=r"data\.json"):
        passes.read("data")


def test_freshness() -> None:
    assert passes.freshness("data") is None
    now = time.time()
    record = passes.complete_received(Record("data"), Done("serv1", 1, now - 100, now - 90, 5), {})
    age, cut = passes.freshness("data") or (0.0, True)
    assert 99 < age < 110
    assert not cut
    record = passes.write(record._replace(unfinished=Unfinished("serv1", 1, now, "SET")))
    assert (passes.freshness("data") or (0, False))[1]
    record = passes.complete_sent(record, Done("serv1", 2, now, now, 5), {})
    assert passes.freshness("data") == (0.0, False), "this node wrote them itself"
    passes.complete_received(record, Done("serv1", 3, now - 5, now, 5), {})
    assert 4 < (passes.freshness("data") or (0, False))[0] < 15


def test_a_return_is_the_first_pass_after_having_been_the_holder() -> None:
    record = Record("data")
    assert not record.returns(5)
    record = record._replace(received=Done("serv2", 1, 1, 1, 1))
    assert not record.returns(5)
    record = record._replace(sent={"serv2": Done("serv2", 2, 2, 2, 2)})
    assert record.returns(3)
    assert not record.returns(2), "the holder itself"
    record = record._replace(received=Done("serv2", 3, 3, 3, 3))
    assert not record.returns(3)
    record = record._replace(sent={"serv2": Done("serv2", 4, 4, 4, 44)})
    assert record.returns(5)
    assert record.entries() == 44


def test_the_start_of_a_pass_is_known_until_the_next_boot() -> None:
    assert passes.started("data") is None
    before = view.now()
    passes.note_start("data")
    assert before <= (passes.started("data") or 0) <= view.now()
    state.write_text(f"{paths.STARTED}/data.json", "rubbish", durable=False)
    assert passes.started("data") is None


def test_a_holder_again_forgets_what_a_cut_return_had_found() -> None:
    """It was not all: what is written from now on is to be found as well."""
    passes.write(Record("data", held=Held(3, 50.0), returned=Returned(4, (("/a", True),))))
    passes.hold("data", 5)
    assert passes.read("data").returned is None and passes.read("data").alone_since("serv1") == Moment(50.0, 0)


def test_a_holder_that_no_pass_was_ever_sent_by_returns_as_well() -> None:
    record = passes.complete_received(Record("data"), Done("serv2", 1, 10, 11, 5), {})
    assert not record.returns(3) and record.alone_since("serv2") is None
    passes.hold("data", 2)
    record = passes.read("data")
    assert record.returns(3) and not record.returns(1)
    since = at(record.alone_since("serv2"))
    assert time.time() - 10 < since <= time.time()
    passes.hold("data", 2)
    passes.hold("data", 4)
    assert passes.read("data").held == Held(4, since, 0, 2), "what was written with epoch 2 is still nowhere else"
    record = passes.complete_sent(passes.read("data"), Done("serv2", 4, since + 5, since + 6, 5), {})
    assert record.returns(5) and at(record.alone_since("serv2")) == since + 5
    record = passes.complete_received(record, Done("serv2", 5, since + 7, since + 8, 5), {})
    assert not record.returns(6)
    passes.hold("data", 6)
    assert at(passes.read("data").alone_since("serv2")) > since


def test_who_yields_to_an_equal_epoch_returns_once() -> None:
    """Cut off from each other, both may have held it with the same epoch."""
    passes.complete_received(Record("data"), Done("serv2", 1, 10, 11, 5), {})
    passes.hold("data", 2)
    record = passes.read("data")
    assert record.returns(2)
    now = time.time() + 1
    record = passes.complete_received(record, Done("serv2", 2, now, now + 1, 5), {})
    assert not record.returns(2) and not record.returns(3)


def test_of_three_nodes_it_counts_what_was_sent_to_the_one_that_sends_now() -> None:
    """The third one may have had the latest pass, and another one taken over."""
    passes.hold("data", 2)
    record = passes.complete_sent(passes.read("data"), Done("serv2", 2, 10, 11, 5), {})
    since = record.held.since if record.held else 0.0
    record = passes.complete_sent(record, Done("serv2", 2, since + 5, since + 6, 5), {})
    record = passes.complete_sent(record, Done("serv3", 2, since + 7, since + 8, 5), {})
    assert at(record.alone_since("serv2")) == since + 5
    assert at(record.alone_since("serv3")) == since + 7
    assert at(record.alone_since("serv4")) == since


def test_a_pass_counts_after_the_clock_was_set_back_since_this_node_has_the_group() -> None:
    """Its time is before that at which the group was taken. What is written after it is new all the same."""
    passes.hold("data", 2)
    since = at(passes.read("data").alone_since("serv2"))
    record = passes.complete_sent(passes.read("data"), Done("serv2", 2, since - 3600, since - 3599, 5), {})
    assert at(record.alone_since("serv2")) == since - 3600


def test_who_yielded_and_holds_again_has_it_since_then() -> None:
    passes.hold("data", 2)
    record = passes.complete_received(passes.read("data"), Done("serv2", 2, 10, 11, 5), {})
    assert not record.returns(2), "although the clock was set back meanwhile"
    passes.hold("data", 3)
    held = passes.read("data").held
    assert held and (held.first, held.yielded) == (3, False)
    assert passes.read("data").returns(4)
