"""A service that gets another home: its files go only from where the latest ones are, whatever the epochs are."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from clusterd import ownership, passes, view
from clusterd.errors import Failed, NotPermitted
from clusterd.passes import Done
from unit.test_mirror import fill, go, refused, tree
from unit.test_return import swap
from unit.twonodes import Two
from unit.twonodes import two_nodes as two_nodes


def rehomed(two: Two, epoch: int) -> None:
    """The service's home is serv2 from now on, and serv1 holds that group."""
    for folder in (two.node, two.other):
        file = Path(folder / "conf" / "services" / "data.conf")
        file.write_text(file.read_text().replace("home = serv1", "home = serv2"))
    ownership.enter("serv2", epoch, ownership.HELD)


def test_the_latest_files_go_on_from_where_they_are(two: Two) -> None:
    """serv1 had the old group at epoch 1; that of the new one may be higher or lower."""
    two.hold(7)
    fill(two)
    rehomed(two, 3)
    (two.data / "file1").write_text("changed")
    report = go(two)
    assert report.ok, report.problem
    assert report.unmirrored == (), "it is no return"
    assert tree(two.data) == tree(two.copy)
    record = passes.read("data")
    assert (record.home, record.sent["serv2"].epoch, record.last_held()) == ("serv2", 3, 3)
    there = two.there_python("from clusterd import passes; r = passes.read('data'); print(r.home, r.received.epoch)")
    assert there.split() == ["serv2", "3"]


def test_older_files_replace_nothing(two: Two) -> None:
    """As if serv2 had the files last: its home alone makes serv1's no newer."""
    fill(two)
    mine = passes.read("data")
    done = mine.sent["serv2"]
    assert mine.home == "serv1"
    time.sleep(0.1)
    passes.write(mine._replace(sent={}, held=None, received=Done("serv2", 1, time.time(), time.time(), done.entries)))
    rehomed(two, 9)
    refused(two, NotPermitted, "its home was serv1 and is serv2 now, and the latest files are not of this node")


def test_later_files_of_the_receiver_are_not_replaced(two: Two) -> None:
    """Both have been the holder since they last received: the epochs of the old home say who was it later."""
    two.hold(7)
    fill(two)
    two.there_python(
        "from clusterd import passes; r = passes.read('data');"
        "passes.write(r._replace(sent={'serv1': r.received._replace(node='serv1', epoch=8)}))"
    )
    rehomed(two, 9)
    refused(two, NotPermitted, "its home has changed, and the latest files are those of serv2")


def test_earlier_ones_come_home_as_on_a_return(two: Two) -> None:
    """serv2 had died as the holder, and serv1 has taken over: what serv2 alone had is found, under the new home too."""
    fill(two)
    swap(two)
    (two.copy / "new-there").write_text("written on serv2, never mirrored")
    passes.hold("data", 2)
    rehomed(two, 1)
    report = go(two, max_delete="10")
    assert report.ok, report.problem
    assert [Path(path).name for path in report.unmirrored] == ["new-there"]
    assert tree(two.data) == tree(two.copy)
    (two.data / "file1").write_text("changed")
    report = go(two)
    assert (report.ok, report.unmirrored) == (True, ())


def test_before_both_have_the_new_home_nothing_goes(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver would take the epoch of the one group for that of the other."""
    fill(two)
    rehomed(two, 40)
    peers = {"serv2": SimpleNamespace(digest_same=False, heard=True, paths={})}
    monkeypatch.setattr(view, "read", lambda **_: SimpleNamespace(peers=peers))
    refused(two, Failed, "its home has changed, and serv2 has another configuration: run cluster push")


def test_a_record_of_an_older_version_has_the_home_that_is_configured(two: Two) -> None:
    fill(two)
    passes.write(passes.read("data")._replace(home=""))
    (two.data / "file1").write_text("changed")
    assert go(two).ok
    assert passes.read("data").home == "serv1"


def test_a_takeover_begins_anew(two: Two) -> None:
    from clusterd import rehome

    fill(two)
    rehomed(two, 9)
    service = two.load().services["data"]
    rehome.taking(service)
    passes.hold("data", 9)
    record = passes.read("data")
    assert (record.home, record.last_held()) == ("serv2", 9)
    assert record.held is not None and record.held.epoch == 9
