"""The published view: good for a short time and this boot only; whatever else is in the file is no view."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import paths, state, view
from clusterd.errors import CannotTell
from clusterd.view import PeerView, View

if TYPE_CHECKING:
    from unit.conftest import Box


def made(**changes: Any) -> View:
    now = view.now()
    claim = {"epoch": 3, "holder": "serv2", "held": True, "pinned": False}
    peer = PeerView("serv2", True, {"heartbeat": 0.1, "lan": None}, "", {"serv2": claim}, 2, True, True, 0.1, 5.0)
    groups = {group: {"epoch": 3, "held": group == "serv1"} for group in ("serv1", "serv2")}
    whole = View(
        "serv1",
        state.boot_id(),
        now + view.GOOD_FOR,
        now,
        "",
        2,
        2,
        groups,
        {"serv2": peer},
        [["a", "b", "c"]],
        {"signature": 1},
    )
    return whole._replace(**changes)


def test_written_and_read(box: "Box") -> None:
    view.write(made())
    found = view.need()
    assert found == made(until=found.until, written=found.written)
    assert os.stat(paths.VIEW).st_mode & 0o777 == 0o644


def test_too_old(box: "Box") -> None:
    view.write(made(until=view.now() - 0.001))
    assert view.read() is None
    found = view.read(stale=True)
    assert found and found.node == "serv1"
    with pytest.raises(CannotTell, match="watchdog is not running"):
        view.need()


def test_of_another_boot(box: "Box") -> None:
    view.write(made(boot="another"))
    assert view.read() is None and view.read(stale=True) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", "{}", '{"node": "serv1"}', '{"peers": []}', '{"peers": {"serv2": 3}}']
)
def test_whatever_else_is_no_view(box: "Box", text: str) -> None:
    Path(paths.VIEW).write_text(text)
    assert view.read() is None
    assert view.parse(text) is None
    with pytest.raises(CannotTell):
        view.need()


def test_from_another_version(box: "Box") -> None:
    """A field too many or too few, after an upgrade: none, until the watchdog has started again."""
    view.write(made())
    fact = state.read(paths.VIEW)
    for other in ({**fact, "more": 1}, {key: value for key, value in fact.items() if key != "reach"}):
        Path(paths.VIEW).write_text(json.dumps(other))
        assert view.read() is None


def test_parse_takes_what_was_written(box: "Box") -> None:
    view.write(made())
    assert view.parse(Path(paths.VIEW).read_text()) == view.read()


def test_holder() -> None:
    seen = made()
    assert (seen.holder("serv1"), seen.holder("serv2")) == ("serv1", "serv2")
    silent = made(peers={"serv2": seen.peers["serv2"]._replace(heard=False)})
    assert silent.holder("serv2") == ""
    unknown = made(peers={"serv2": seen.peers["serv2"]._replace(groups={})})
    assert unknown.holder("serv2") == ""


def test_sure_of_this_boot_only(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    assert view.sure_at() == float("-inf")
    view.mark_sure(state.boot_id(), 12.5)
    assert view.sure_at() == 12.5
    view.mark_sure(state.boot_id(), 123456.789)
    assert view.sure_at() == 123456.789
    Path(paths.SURE).write_text("another-boot 00000123456.000000\n")
    assert view.sure_at() == float("-inf")
    Path(paths.SURE).write_text("")
    assert view.sure_at() == float("-inf")


def test_waiting_until_it_is_sure(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "GOOD_FOR", 0.1)
    view.mark_sure(state.boot_id(), view.now())
    view.wait_sure(5.0)
    view.mark_sure(state.boot_id(), view.now() - 5.0)
    with pytest.raises(CannotTell, match="the watchdog is not sure"):
        view.wait_sure(5.0)


def test_what_is_sent_to_a_peer_can_be_read_there(box: "Box") -> None:
    whole = made()
    assert view.parse(view.text(whole)) == whole


def test_what_the_next_loop_has_to_know_is_nothing_for_a_peer(box: "Box") -> None:
    door = {"nonce": "n1", "last": [["serv2", "lan", 7, 3]], "met": {"serv2": [7, "n2"]}}
    view.write(made()._replace(door=door))
    seen = view.read()
    assert seen is not None and seen.door == door
    sent = view.parse(view.text(seen))
    assert sent is not None and sent.door is None
    assert "nonce" not in view.text(seen)
