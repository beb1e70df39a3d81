"""What this node holds, followed from the records on disk; addresses, leases and announcements on a real network."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd import arp, estate, lock, network, ownership, paths, reach, state, view
from clusterd import worker as workers
from clusterd.crew import Crew
from clusterd.estate import Estate
from clusterd.ownership import Record
from clusterd.picture import Claim
from clusterd.worker import Worker
from unit.site import Site, wait
from unit.site import made_site as made_site

pytest_plugins = ["lan"]
Make = Callable[[], Estate]


@pytest.fixture(name="worker")
def working() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.finish(10)


@pytest.fixture(name="make")
def making(site: Site, worker: Worker) -> Iterator[Make]:
    """Make the estate of serv1, from what is on the disk by then."""
    made: list[Estate] = []

    def make() -> Estate:
        made.append(Estate(site.load(), worker))
        return made[-1]

    yield make
    for each in made:
        each.keeper.close()


@pytest.fixture(name="crew")
def idle(site: Site) -> Crew:
    return Crew(str(site.box.conf))


def drain(worker: Worker) -> None:
    """Wait until all that was given to the worker is done."""
    done: list[bool] = []
    worker.do(lambda: done.append(True))
    wait(lambda: done)


def test_the_record_is_the_truth(site: Site, make: Make, crew: Crew) -> None:
    made = make()
    assert made.up == set()
    for phase, up, held in (
        ("acquiring", False, True),
        ("starting", True, True),
        ("held", True, True),
        ("releasing", True, True),
        ("free", False, False),
    ):
        ownership.enter("serv1", 3, phase)
        made.look()
        own = made.owns(crew, view.now())["serv1"]
        assert (own.up, own.held, own.epoch, own.holder) == (up, held, 3, "serv1"), phase
        assert own.unfinished == (held and phase != "held"), phase
        assert made.claims(crew)["serv1"].held == held


@pytest.mark.parametrize(("boot", "holder"), [("another", "serv1"), ("", "serv2")])
def test_of_another_boot_or_node_nothing_is_held(site: Site, make: Make, crew: Crew, boot: str, holder: str) -> None:
    record = ownership.Record("serv1", 3, holder, ownership.HELD, boot or state.boot_id())
    ownership.write(record)
    made = make()
    own = made.owns(crew, view.now())["serv1"]
    assert (own.up, own.held, own.unfinished) == (False, False, False)


def test_what_a_script_is_at_is_not_unfinished(site: Site, make: Make, crew: Crew) -> None:
    ownership.enter("serv1", 3, ownership.STARTING)
    made = make()
    with lock.Lock("group-serv1"):
        own = made.owns(crew, view.now())["serv1"]
        assert (own.busy, own.unfinished) == (True, False)
    own = made.owns(crew, view.now())["serv1"]
    assert (own.busy, own.unfinished) == (False, True)


def test_two_writings_within_a_tick_are_both_seen(site: Site, make: Make, crew: Crew) -> None:
    """The file's time is the same, as it may be on a quick disk: the second word counts."""
    path = ownership.path("serv1")
    made = make()
    for phase in (ownership.STARTING, ownership.HELD):
        ownership.enter("serv1", 3, phase)
        os.utime(path, ns=(5, 5))
        made.look()
        assert made.records["serv1"].phase == phase


def test_standby_is_followed(site: Site, make: Make) -> None:
    made = make()
    assert made.standby == ""
    for cause in ("program", "person"):
        ownership.enter_standby(cause, "a test")
        made.look()
        assert made.standby == cause
    ownership.leave_standby(person=True)
    made.look()
    assert made.standby == ""


def test_a_record_that_cannot_be_read(site: Site, make: Make, crew: Crew, worker: Worker) -> None:
    """Neither renewed nor acquired, told once, and believed again when it is whole."""
    ownership.enter("serv1", 3, ownership.HELD)
    made = make()
    assert made.up == {"serv1"}
    path = Path(ownership.path("serv1"))
    whole = path.read_text()
    path.write_text('{"group": "serv1", "epoch"')
    made.look()
    made.look()
    own = made.owns(crew, view.now())["serv1"]
    assert (own.up, own.busy) == (False, True)
    assert "serv1" not in made.claims(crew), "another node may take it"
    drain(worker)
    assert site.told() == ["record-unreadable"]
    path.write_text(whole)
    made.look()
    own = made.owns(crew, view.now())["serv1"]
    assert (own.up, own.held, own.busy) == (True, True, False)


def test_a_record_that_is_restored_in_place_is_read_when_it_is_whole(
    site: Site, make: Make, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``cp -a``: it was looked at in the middle, and in the end its time is that of before."""
    ownership.enter("serv1", 3, ownership.HELD)
    path = Path(ownership.path("serv1"))
    before, whole = path.stat(), path.read_text()
    made = make()
    stamp = estate._stamp

    def then_cut(at: str) -> tuple[int, int]:
        found = stamp(at)
        path.write_text("")
        return found

    made.stamps["serv1"] = 0, 0  # that of the file which it replaces: another disk is mounted, say
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(estate, "_stamp", then_cut)
        made.look()
    assert made.owns(crew, view.now())["serv1"].busy
    path.write_text(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    made.look()
    assert not made.owns(crew, view.now())["serv1"].busy


def test_unreadable_from_the_start(site: Site, make: Make, crew: Crew) -> None:
    path = Path(ownership.path("serv2"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[]")
    own = make().owns(crew, view.now())["serv2"]
    assert (own.held, own.up, own.busy) == (False, False, True)


def test_suspend_is_at_once_and_keeps_the_record(site: Site, make: Make, crew: Crew) -> None:
    site.hold("serv2", 4)
    made = make()
    made.suspend("serv2", "a test")
    assert not site.up("serv2")
    assert site.lan.ip("serv1", "link show eth2")[0]["address"] != "00:10:4b:63:1c:35"
    own = made.owns(crew, view.now())["serv2"]
    assert (own.held, own.up) == (True, False)
    assert made.claims(crew)["serv2"].held is False
    assert ownership.read("serv2").phase == "held"
    made.look()
    assert made.up == set()
    # The script that puts it up again says so in the record.
    ownership.enter("serv2", 4, ownership.STARTING)
    made.look()
    assert made.up == {"serv2"}


def test_let_go_writes_the_record(site: Site, make: Make, worker: Worker) -> None:
    site.hold("serv1", 3)
    site.hold("serv2", 4)
    made = make()
    made.let_go("serv2", 6, "serv2")
    assert not site.up("serv2")
    assert made.records["serv2"].holder == "serv2"
    drain(worker)
    record = ownership.read("serv2")
    assert (record.epoch, record.holder, record.phase) == (6, "serv2", "free")
    assert made.up == {"serv1"}
    assert made.standby == "", "whether it is to hold nothing at all, the verdict says"


def test_enter_standby(site: Site, make: Make, worker: Worker) -> None:
    made = make()
    made.enter_standby("serv2 holds serv1")
    assert made.standby == "program"
    drain(worker)
    standby = ownership.standby()
    assert standby and (standby.cause, standby.reason) == ("program", "serv2 holds serv1")
    made.look()
    assert made.standby == "program"


def test_leave_standby(site: Site, make: Make, worker: Worker) -> None:
    made = make()
    made.enter_standby("serv2 holds serv1")
    made.leave_standby()
    assert made.standby == "", "at once"
    drain(worker)
    assert ownership.standby() is None
    made.look()
    assert made.standby == ""


def test_a_standby_by_a_person_stays_one(site: Site, make: Make, worker: Worker) -> None:
    ownership.enter_standby(ownership.PERSON, "the fan is loud")
    made = make()
    made.enter_standby("a test")
    drain(worker)
    assert ownership.standby() == ownership.standby()
    standby = ownership.standby()
    assert standby and standby.reason == "the fan is loud"


def test_only_higher_epochs_of_what_is_not_held_are_learnt(site: Site, make: Make, worker: Worker) -> None:
    ownership.enter("serv1", 3, ownership.HELD)
    ownership.write(Record("serv2", 5, "serv1"))
    made = make()
    made.learn({"serv1": Claim(9, "serv2", True), "serv2": Claim(5, "serv2", True), "serv9": Claim(5, "serv2", True)})
    drain(worker)
    assert (ownership.read("serv1").epoch, ownership.read("serv2").holder) == (3, "serv1")
    made.learn({"serv2": Claim(6, "serv2", True, True)})
    assert made.records["serv2"].epoch == 6
    drain(worker)
    record = ownership.read("serv2")
    assert (record.epoch, record.holder, record.phase, record.pinned) == (6, "serv2", "free", True)


def test_what_a_script_has_taken_meanwhile_is_not_overwritten_by_hearsay(
    site: Site, make: Make, worker: Worker
) -> None:
    """With the same epoch: which of the two has it is decided, and not by whose disk was slower."""
    ownership.write(Record("serv2", 5, "serv1"))
    made = make()
    slow = threading.Event()
    worker.do(slow.wait)
    made.learn({"serv2": Claim(6, "serv2", True)})
    ownership.enter("serv2", 6, ownership.ACQUIRING)
    slow.set()
    drain(worker)
    assert ownership.read("serv2")[1:4] == (6, "serv1", "acquiring")
    made.look()
    assert made.records["serv2"].holder == "serv1"


def test_renewals_keep_a_pace_and_need_to_be_sure(site: Site, make: Make) -> None:
    site.hold("serv1", 3)
    made = make()
    asked: list[float] = []
    made.keeper.renew = lambda places: asked.append(len(list(places)))  # type: ignore[method-assign]
    made.renew(100.0, sure=False)
    assert asked == []
    step = made.lease / estate.RENEWALS
    for number in range(20):
        made.renew(100.0 + number * step / 4, sure=True)
    assert asked == [1] * 5


def test_a_lapsed_lease_suspends_wholly(site: Site, make: Make) -> None:
    """One of the addresses is gone: the MAC address goes as well."""
    site.hold("serv2", 4)
    made = make()
    assert not made.lapsed()
    site.lan.ip("serv1", "addr del 10.1.0.2/24 dev eth2")
    made.renew(100.0, sure=True)
    wait(made.keeper.failed)
    made.renew(200.0, sure=True)
    assert made.up == set()
    assert site.lan.ip("serv1", "link show eth2")[0]["address"] != "00:10:4b:63:1c:35"


def test_announced_often_at_first_and_then_now_and_then(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.hold("serv2", 4)
    made = make()
    times: list[float] = []
    clock = [1000.0]
    monkeypatch.setattr(network, "announce", lambda place: times.append(round(clock[0] - 1000, 2)))

    def run(seconds: float, unheard: set[str]) -> list[float]:
        times.clear()
        end = clock[0] + seconds
        while clock[0] < end:
            made.announce(clock[0], sure=True, unheard=unheard)
            clock[0] += 0.05
        return list(times)

    made.announce(clock[0], sure=False, unheard=set())
    assert times == []
    first = run(140.0, set())
    assert first[0] == 0.0
    assert [round(at) for at in first[3:]] == [1, 2, 5, 15, 75, 135]
    assert 0.1 <= first[1] <= 0.2 and 0.3 <= first[2] <= 0.4
    insisting = run(60.0 + 10.0, {"serv2"})
    assert 9 <= len([at for at in insisting if at >= 195.0 + 1]) <= 20
    # Up anew, announced anew.
    ownership.enter("serv2", 4, ownership.FREE)
    made.look()
    assert run(1.0, set()) == []
    ownership.enter("serv2", 5, ownership.HELD)
    made.look()
    assert len(run(1.5, set())) == 4


def test_an_announcement_is_heard(site: Site, make: Make) -> None:
    site.hold("serv2", 4)
    made = make()
    site.lan.enter("serv2")
    with arp.Socket("eth0") as ear:
        site.lan.enter("serv1")
        made.announce(view.now(), sure=True, unheard=set())
        site.lan.enter("serv2")
        assert ear.wait_for(["10.1.0.2"], 20.0) == "10.1.0.2"
    site.lan.enter("serv1")


def test_questions_are_paced_and_forgotten(site: Site, make: Make, crew: Crew) -> None:
    made = make()
    now = 100.0
    assert made.questions(("serv2",), now) == ["10.1.0.2"]
    assert made.questions(("serv2",), now + reach.URGENT / 2) == []
    for number in range(1, 4):
        assert made.questions(("serv2",), now + number * reach.URGENT * 1.01) == ["10.1.0.2"]
    later = now + 1
    assert made.owns(crew, later)["serv2"].silent_since == now
    made.answered("10.1.0.2", "02:00:00:00:00:01", later)
    made.answered("10.1.0.99", "02:00:00:00:00:01", later)
    own = made.owns(crew, later)["serv2"]
    assert (own.silent_since, own.answered) == (None, True)
    assert made.questions((), later) == []
    own = made.owns(crew, later)["serv2"]
    assert (own.silent_since, own.answered) == (None, False)


def test_unheld_keeps_the_time(site: Site, make: Make) -> None:
    made = make()
    assert made.unheld("serv2", True, 10.0) == 10.0
    assert made.unheld("serv2", True, 12.0) == 10.0
    assert made.unheld("serv2", False, 13.0) is None
    assert made.unheld("serv2", True, 14.0) == 14.0


def test_a_network_that_refuses_stops_nothing(site: Site, make: Make, worker: Worker) -> None:
    site.hold("serv2", 4)
    made = make()
    refusing = site.box.program("ip", "exit 1")
    made.suspend("serv2", "a test")
    refusing.unlink()
    assert made.up == set()
    drain(worker)
    assert "network-incomplete" in site.told()


def test_what_a_peer_knows_of_us_is_not_learnt_over_what_a_script_has_just_written(
    site: Site, make: Make, worker: Worker
) -> None:
    """The first pass may tell a peer of the takeover before this loop has looked at the record again."""
    made = make()
    ownership.enter("serv1", 6, ownership.HELD)
    made.learn({"serv1": Claim(6, "serv1")})
    drain(worker)
    assert ownership.holds("serv1")
    made.look()
    assert made.up == {"serv1"}
    made.learn({"serv2": Claim(7, "serv1")})
    drain(worker)
    assert ownership.read("serv2").epoch == 7, "a disk that has forgotten it learns it"


def test_what_the_disk_does_not_take_is_written_as_soon_as_it_does(
    site: Site, make: Make, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be held here for ever otherwise, and by the peer as well."""
    monkeypatch.setattr(workers, "AGAIN", 0.02)
    site.hold("serv2", 4)
    made = make()
    full = True
    written = state.write

    def write(path: str, *rest: Any, **how: Any) -> None:
        if full and path.startswith(paths.STATE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        written(path, *rest, **how)

    monkeypatch.setattr(state, "write", write)
    marks: list[str] = []
    made.let_go("serv2", 6, "serv2")
    made.enter_standby("serv2 holds serv2")
    worker.after_all(lambda: marks.append("sure"))
    drain(worker)
    assert ownership.read("serv2").epoch == 4
    assert not marks, "nobody may rely on the records yet"
    full = False
    end = time.monotonic() + 20
    while worker.owed:
        assert time.monotonic() < end
        time.sleep(0.01)
    record = ownership.read("serv2")
    assert (record.epoch, record.holder, record.phase) == (6, "serv2", "free")
    assert ownership.standby() is not None


def test_a_script_that_knows_better_meanwhile_is_right(
    site: Site, make: Make, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "AGAIN", 0.2)
    made = make()
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        broken.setattr(state, "write", fail)
        made.learn({"serv2": Claim(6, "serv2", True, False, 0)})
        drain(worker)
    ownership.enter("serv2", 6, ownership.HELD)
    made.look()
    wait(lambda: not worker.owed)
    assert ownership.read("serv2").phase == "held"
