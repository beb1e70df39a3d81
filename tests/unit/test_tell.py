"""What the watchdog tells: each condition once, after its patience, and its end; scripts that failed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import notify, paths, state, view
from clusterd.actions import Acquire
from clusterd.conditions import Condition
from clusterd.crew import Ended
from clusterd.model import ALL_PATHS, Config, Notify
from clusterd.tell import GONE_AFTER, STRANGERS_EVERY, Teller
from clusterd.worker import Job, Worker

if TYPE_CHECKING:
    from unit.conftest import Box

DEAD = Condition("peer-dead", "serv2", "serv2 is not heard on any path")
DOWN = Condition("path-down", "serv2/lan", "serv2 is not heard on lan")


@pytest.fixture(name="teller")
def telling(pair: Config) -> Iterator[Teller]:
    """Nobody is sent anything: the events are what is looked at."""
    worker = Worker()
    yield Teller(pair._replace(notify=Notify((), "root", "", ())), worker)
    worker.finish(10)


def told(teller: Teller) -> list[dict[str, Any]]:
    """The events, once all is done; the teller can tell no more."""
    teller.worker.finish(10)
    path = Path(paths.EVENTS)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last(teller: Teller, condition: Condition, begin: float, seconds: float) -> float:
    """The condition is true for so long; returns when that ends."""
    now = begin
    while now <= begin + seconds:
        teller.conditions((condition,), now)
        now += 0.1
    return now


def pause(teller: Teller, begin: float, seconds: float = 2 * GONE_AFTER) -> float:
    """Nothing is the matter for so long."""
    now = begin
    while now <= begin + seconds:
        teller.conditions((), now)
        now += 0.1
    return now


def test_a_condition_is_told_once(teller: Teller) -> None:
    assert teller.conditions((DEAD, DOWN), 99.9) == [DEAD], "the path is given some time"
    now = last(teller, DEAD, 100.0, 30.0)
    assert teller.conditions((DEAD,), now) == []
    last(teller, DEAD, now + GONE_AFTER / 2, 5.0)
    [event] = told(teller)
    assert (event["event"], event["subject"], event["level"]) == ("peer-dead", "serv2", "alert")
    assert event["text"] == "serv2 is not heard on any path"


def test_what_is_told_late_bears_the_time_at_which_it_happened(teller: Teller) -> None:
    """A disk may keep the worker waiting, and the script that was started is quicker."""
    teller.worker.do(lambda: time.sleep(0.3))
    before = view.now()
    teller.conditions((DEAD,), 100.0)
    teller.decided(Acquire("serv2", 4, "serv2 is dead"))
    after = view.now()
    found = told(teller)
    assert [event["event"] for event in found] == ["peer-dead", "decided"]
    assert all(before - 0.001 <= event["uptime"] <= after + 0.001 for event in found)
    assert after - before < 0.3


def test_its_end_is_told(teller: Teller) -> None:
    now = last(teller, DEAD, 100.0, 7.0)
    now = pause(teller, now, 60.0)
    last(teller, DEAD, now, 0.0)
    events = told(teller)
    assert [event["event"] for event in events] == ["peer-dead", "peer-back", "peer-dead"]
    assert events[1]["text"] == "serv2 is heard again, after 7 s"


def test_its_end_names_the_path(teller: Teller) -> None:
    last(teller, DOWN, 100.0, 7.0)
    now = pause(teller, 108.0)
    last(teller, Condition("path-down", f"serv2/{ALL_PATHS}", "serv2 is not heard here on any path"), now, 7.0)
    pause(teller, now + 8.0)
    texts = [event["text"] for event in told(teller) if event["event"] == "path-up"]
    assert [text.partition(",")[0] for text in texts] == [
        "serv2 is heard on lan again",
        "serv2 is heard on every path again",
    ]


@pytest.mark.parametrize(
    ("name", "end"), [("path-down", "path-up"), ("isolated", "isolation-over"), ("config-differs", None)]
)
def test_counterparts(teller: Teller, name: str, end: str | None) -> None:
    subject = "serv2/lan" if name == "path-down" else "serv2"
    pause(teller, last(teller, Condition(name, subject, "a text"), 100.0, 5.0))
    assert [event["event"] for event in told(teller)] == [name, *([end] if end else [])]


@pytest.mark.parametrize("over", [False, True])
def test_one_without_a_counterpart_is_news_again_once_it_is_over(teller: Teller, over: bool) -> None:
    now = last(teller, Condition("takeover-held-back", "serv1", "somebody still answers"), 100.0, 2.0)
    if over:
        pause(teller, now)
    assert [event["event"] for event in told(teller)] == ["takeover-held-back"]
    assert (state.read(f"{paths.NOTICES}/told/takeover-held-back@serv1") or {})["over"] is over


def test_a_short_one_is_not_told_and_neither_is_its_end(teller: Teller) -> None:
    now = 100.0
    for _ in range(5):
        now = pause(teller, last(teller, DOWN, now, 1.5))
    assert told(teller) == []


def test_patience_counts_from_the_beginning(teller: Teller) -> None:
    """A flutter shorter than GONE_AFTER is the same condition."""
    now = 100.0
    for _ in range(4):
        now = last(teller, DOWN, now, 0.4) + GONE_AFTER / 2
    assert [event["event"] for event in told(teller)] == ["path-down"]


def test_each_subject_is_a_condition_of_its_own(teller: Teller) -> None:
    other = DEAD._replace(subject="serv3")
    teller.conditions((DEAD,), 100.0)
    teller.conditions((DEAD, other), 100.1)
    for tick in range(20):
        teller.conditions((other,), 100.2 + tick / 10)
    assert [(event["event"], event["subject"]) for event in told(teller)] == [
        ("peer-dead", "serv2"),
        ("peer-dead", "serv3"),
        ("peer-back", "serv2"),
    ]


class AtOnce(Worker):
    """Does it while the clock stands still."""

    def __init__(self) -> None:
        pass

    def do(self, job: Job) -> None:
        job()


class Reader:
    """A teller whose notices go to a person, the person, and the clock of both."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        wall = time.time() - self.now
        monkeypatch.setattr(time, "time", lambda: wall + self.now)
        monkeypatch.setattr(notify, "_deliver", lambda *_, **__: None)
        self.teller = Teller(config._replace(notify=Notify(("root",), "root", "", ())), AtOnce())

    def sees(self, condition: Condition | None, seconds: float, step: float = 0.5) -> None:
        """The condition, or none, for so long."""
        end = self.now + seconds
        while self.now < end:
            self.teller.conditions((condition,) if condition else (), self.now)
            self.now += step

    def got(self) -> list[tuple[str, str]]:
        """What has arrived: its name and text."""
        letters = [state.read(path) for path in notify.spooled()]
        return [(letter["event"]["event"], " ".join(letter["body"].split())) for letter in letters]

    def got_last(self) -> str:
        return self.got()[-1][0]


@pytest.fixture
def reader(pair: Config, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(pair, monkeypatch)


def test_what_lasts_after_too_many_flaps_is_told_when_the_hour_is_over(reader: Reader) -> None:
    for _ in range(notify.AT_MOST):
        reader.sees(DEAD, 10)
        reader.sees(None, 10)
    reader.sees(DEAD, 10)
    assert reader.got_last() == "peer-back", "too many for one hour"
    reader.sees(DEAD, 2 * 3600, step=0.9)
    name, text = reader.got()[-1]
    assert name == "peer-dead"
    assert "it has happened 1 times more" in text
    before = len(reader.got())
    reader.sees(DEAD, 86400, step=0.9)
    assert len(reader.got()) == before, "and once is enough"
    reader.sees(None, 10)
    assert reader.got_last() == "peer-back"


def test_the_end_of_what_was_told_is_told_however_often(reader: Reader) -> None:
    """The hour of the one notice and that of the other begin at different times."""
    reader.sees(DEAD, 1800)
    for _ in range(2 * notify.AT_MOST):
        reader.sees(None, 10)
        reader.sees(DEAD, 10)
    reader.sees(DEAD, 1800, step=0.9)
    for _ in range(2 * notify.AT_MOST):
        reader.sees(None, 10)
        assert reader.got_last() == "peer-back"
        reader.sees(DEAD, 10)
    names = [name for name, _ in reader.got()]
    assert names.count("peer-dead") == 2 * notify.AT_MOST
    assert names.count("peer-back") <= 2 * notify.AT_MOST


def test_what_lasts_and_was_told_is_not_told_every_hour(reader: Reader) -> None:
    reader.sees(DEAD, 3 * 3600, step=0.9)
    assert [name for name, _ in reader.got()] == ["peer-dead"]
    events = Path(paths.EVENTS).read_text().splitlines()
    assert len(events) == 1, "nor is it an event"


def test_a_watchdog_that_starts_again_while_it_lasts(reader: Reader) -> None:
    """It does not know what was told before."""
    reader.sees(DEAD, 600)
    reader.teller = Teller(reader.teller.config, AtOnce())
    reader.sees(DEAD, 5 * 3600, step=0.9)
    assert [name for name, _ in reader.got()] == ["peer-dead"]
    reader.sees(None, 10)
    for _ in range(notify.AT_MOST + 1):
        reader.sees(DEAD, 10)
        reader.sees(None, 10)
    reader.sees(DEAD, 10)
    assert reader.got_last() == "peer-back"
    reader.teller = Teller(reader.teller.config, AtOnce())
    reader.sees(DEAD, 2 * 3600, step=0.9)
    assert reader.got_last() == "peer-dead"


def test_scripts_that_failed(teller: Teller) -> None:
    """What went well, or was somebody else's turn, they tell themselves; so does a release that says so."""
    teller.ended(
        [
            Ended("serv1", "takeover", 0, ""),
            Ended("serv1", "takeover", 75, "takeover: busy"),
            Ended("serv2", "takeover", 1, "takeover: eth2: no such network interface"),
            Ended("serv2", "takeover", 1, "takeover: not fenced: serv2 could not be switched off"),
            Ended("serv2", "takeover", -9, ""),
            Ended("serv1", "release", 1, "release: smbd did not stop"),
            Ended("serv2", "release", -9, ""),
        ]
    )
    assert [(event["event"], event["text"]) for event in told(teller)] == [
        ("takeover-failed", "takeover serv2: takeover: eth2: no such network interface"),
        ("takeover-failed", "takeover serv2: exit -9"),
        ("release-failed", "release serv2: exit -9"),
    ]


def test_strangers_at_most_once_a_minute(teller: Teller) -> None:
    teller.rejected({}, 100.0)
    teller.rejected({"signature": 1}, 101.0)
    for tick in range(500):
        teller.rejected({"signature": 2, "stranger": tick}, 101.1 + tick / 10)
    teller.rejected({"signature": 2, "stranger": 499}, 101.0 + STRANGERS_EVERY)
    teller.rejected({"signature": 2, "stranger": 499}, 101.0 + 3 * STRANGERS_EVERY)
    texts = [event["text"] for event in told(teller)]
    assert texts == [
        "1 datagrams were not believed (signature: 1)",
        "500 datagrams were not believed (signature: 2, stranger: 499)",
    ]


def test_decisions_are_recorded_whole(teller: Teller) -> None:
    teller.decided(Acquire("serv2", 6, "serv2 is dead"))
    [event] = told(teller)
    assert event["event"] == "decided"
    assert (event["action"], event["group"], event["epoch"], event["why"]) == ("Acquire", "serv2", 6, "serv2 is dead")


def test_a_changed_configuration(teller: Teller, pair_files: "Box") -> None:
    assert teller.usable(str(pair_files.conf))
    pair_files.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    assert not teller.usable(str(pair_files.conf))
    [event] = told(teller)
    assert event["event"] == "config-bad"
    assert "failback: found 'perhaps'" in event["text"]


@pytest.mark.parametrize("what", ["key", "folder", "password"])
def test_whatever_a_start_reads_must_be_usable(teller: Teller, pair_files: "Box", what: str) -> None:
    """Said once; tried again after a while though no .conf file has changed."""
    conf = str(pair_files.conf)
    path = {"key": pair_files.conf / "key", "folder": pair_files.state, "password": pair_files.root / "password"}[what]
    if what == "password":
        path.write_text("a password\n")
        etcd = f"kind = etcd\nendpoints = http://10.9.0.31:2379,\nuser = clusterd\npassword_file = {path}\n#"
        pair_files.edit("cluster.conf", "kind = reference ", etcd)
    path.chmod(0o777)
    for _ in range(3):
        assert not teller.usable(conf)
        teller.next_try = 0.0
    path.chmod(0o700 if what == "folder" else 0o600)
    assert teller.usable(conf)
    [event] = told(teller)
    assert event["event"] == "config-bad"
    assert f"{path}: found mode 0777" in event["text"]


def test_a_watchdog_device_that_can_be_used_again(teller: Teller) -> None:
    """What is the matter with it next is news."""
    teller.no_device("/dev/watchdog: No such file or directory")
    teller.no_device("")
    [event] = told(teller)
    assert event["event"] == "no-watchdog-device"
    assert state.read(notify._told("no-watchdog-device", "device"))["over"] is True


def test_lost_and_standby(teller: Teller) -> None:
    teller.lost("serv1", "serv2", "serv2 holds it with epoch 9")
    teller.standby("serv2 holds serv1")
    assert [(event["event"], event["text"]) for event in told(teller)] == [
        ("released-lost", "serv1 is let go of: serv2 holds it with epoch 9"),
        ("standby-entered", "standby: serv2 holds serv1"),
    ]
