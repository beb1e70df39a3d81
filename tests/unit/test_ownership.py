"""Records of who holds what, and the standby lock: what is on the disk at every moment, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd import ownership, paths, state
from clusterd.errors import Busy, Failed, NotPermitted
from clusterd.lock import Lock
from clusterd.ownership import (
    ACQUIRING,
    ANSWERING,
    FREE,
    HELD,
    PERSON,
    PROGRAM,
    RELEASING,
    RENEWED,
    STARTING,
    Record,
)

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture(autouse=True)
def on_serv1(box: "Box", hostname: Callable[[str], None]) -> None:
    hostname("serv1")


def on_disk(group: str = "serv1") -> Any:
    with open(f"{paths.GROUPS}/{group}.json", encoding="utf-8") as file:
        return json.load(file)


# --- records ---


def test_of_a_group_never_heard_of_nothing_is_known() -> None:
    assert ownership.read("serv1") == Record("serv1", 0, "", FREE)
    assert not ownership.holds("serv1")


def test_what_is_entered_is_on_the_disk() -> None:
    made = ownership.enter("serv1", 4, ACQUIRING, pinned=True)
    assert ownership.read("serv1") == made
    assert on_disk()["epoch"] == 4
    assert (made.holder, made.phase, made.boot, made.pinned) == ("serv1", ACQUIRING, state.boot_id(), True)


@pytest.mark.parametrize(
    ("phase", "is_held"), [(ACQUIRING, True), (STARTING, True), (HELD, True), (RELEASING, True), (FREE, False)]
)
def test_held_is_what_this_node_answers_for(phase: str, is_held: bool) -> None:
    assert ownership.enter("serv1", 1, phase).held_by("serv1") is is_held
    assert ownership.holds("serv1") is is_held


def test_another_boot_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ownership.enter("serv1", 1, HELD)
    monkeypatch.setattr(state, "boot_id", lambda: "the next boot")
    assert not ownership.holds("serv1")
    assert ownership.read("serv1").epoch == 1


def test_another_node_holds_it_not_here(hostname: Callable[[str], None]) -> None:
    ownership.enter("serv1", 1, HELD)
    hostname("serv2")
    assert not ownership.holds("serv1")


def test_while_it_is_being_taken_nothing_is_renewed() -> None:
    assert set(ANSWERING) - set(RENEWED) == {ACQUIRING}
    assert FREE not in ANSWERING


def test_the_epoch_never_goes_down() -> None:
    ownership.enter("serv1", 5, HELD)
    for record in (Record("serv1", 4, "serv2"), Record("serv1", 0)):
        with pytest.raises(NotPermitted, match="epoch 5 is known here"):
            ownership.write(record)
    assert ownership.read("serv1").epoch == 5


@pytest.mark.parametrize("phase", ANSWERING)
def test_an_epoch_that_is_another_nodes_is_not_answered_with(phase: str) -> None:
    ownership.write(Record("serv1", 4, "serv2"))
    with pytest.raises(NotPermitted, match="serv1: epoch 4 is serv2's"):
        ownership.enter("serv1", 4, phase)
    assert ownership.enter("serv1", 5, phase).held_by("serv1")
    assert ownership.write(Record("serv1", 5, "serv2")).holder == "serv2", "it is let go of to who has it as well"


def test_a_phase_of_the_same_epoch_may_follow() -> None:
    for phase in (ACQUIRING, STARTING, HELD, RELEASING, FREE):
        assert ownership.enter("serv1", 5, phase).phase == phase


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(("serv1", "serv2")), st.booleans()), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_whatever_is_written_the_epoch_never_goes_down(steps: list[tuple[int, str, bool]]) -> None:
    state.remove(ownership.path("serv1"))
    highest = 0
    for epoch, holder, learnt in steps:
        try:
            if learnt:
                ownership.learn("serv1", epoch, holder)
            else:
                ownership.write(Record("serv1", epoch, holder))
        except NotPermitted:
            assert epoch <= highest
        assert ownership.read("serv1").epoch >= highest
        highest = ownership.read("serv1").epoch


def test_learnt_is_only_what_is_news() -> None:
    ownership.enter("serv2", 5, HELD)
    assert ownership.learn("serv2", 5, "serv2") is None
    assert ownership.learn("serv2", 4, "serv2") is None
    assert ownership.holds("serv2")
    learnt = ownership.learn("serv2", 6, "serv2")
    assert learnt is not None
    assert (learnt.epoch, learnt.holder, learnt.phase, learnt.boot) == (6, "serv2", FREE, "")
    assert not ownership.holds("serv2")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"unknown": 1}', '{"epoch": 1}'])
def test_a_damaged_record_is_never_taken_for_none(damage: str) -> None:
    os.makedirs(paths.GROUPS)
    with open(ownership.path("serv1"), "w", encoding="utf-8") as file:
        file.write(damage)
    with pytest.raises(Failed, match=r"serv1\.json"):
        ownership.read("serv1")
    with pytest.raises(Failed):
        ownership.enter("serv1", 99, HELD)


def test_two_that_write_the_same_record_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PATIENCE", 0.05)
    with Lock("record-serv1"), pytest.raises(Busy):
        ownership.write(Record("serv1", 1))
    ownership.write(Record("serv1", 1))


WRITER = """
from clusterd import ownership
for epoch in range({first}, 60, 2):
    try:
        ownership.write(ownership.Record("serv1", epoch, "n{first}"))
    except ownership.NotPermitted:
        pass
"""


def test_of_two_processes_that_write_the_higher_epoch_stays(box: "Box") -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER.format(first=first)], env=box.env) for first in (1, 2)]
    seen = [0]
    while any(writer.poll() is None for writer in writers):
        seen.append(ownership.read("serv1").epoch)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen == sorted(seen)
    assert ownership.read("serv1").epoch == 59


# --- verified from outside ---


def test_verified_counts_in_this_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ownership.verified("serv1") == ""
    ownership.verify("serv1", "10.1.0.254 answered")
    assert ownership.verified("serv1") == "10.1.0.254 answered"
    monkeypatch.setattr(state, "boot_id", lambda: "the next boot")
    assert ownership.verified("serv1") == ""


# --- standby ---


def test_no_lock_no_standby() -> None:
    assert ownership.standby() is None
    ownership.leave_standby(person=False)


def test_the_program_sets_it_and_lifts_it() -> None:
    made = ownership.enter_standby(PROGRAM, "serv2 holds serv1")
    assert ownership.standby() == made
    assert (made.cause, made.reason) == (PROGRAM, "serv2 holds serv1")
    ownership.leave_standby(person=False)
    assert ownership.standby() is None


def test_what_a_person_set_only_a_person_lifts() -> None:
    ownership.enter_standby(PERSON, "new disk")
    with pytest.raises(NotPermitted, match="new disk"):
        ownership.leave_standby(person=False)
    assert ownership.standby() is not None
    ownership.leave_standby(person=True)
    assert ownership.standby() is None


def test_the_program_does_not_weaken_what_a_person_set() -> None:
    ownership.enter_standby(PERSON, "new disk")
    assert ownership.enter_standby(PROGRAM, "other").reason == "new disk"
    assert ownership.standby() is not None
    ownership.leave_standby(person=True)


def test_a_person_may_strengthen_what_the_program_set() -> None:
    ownership.enter_standby(PROGRAM, "serv2 holds serv1")
    assert ownership.enter_standby(PERSON, "new disk").cause == PERSON
    with pytest.raises(NotPermitted):
        ownership.leave_standby(person=False)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"cause": "person"}', "null"])
def test_a_lock_that_cannot_be_read_counts_as_a_persons(box: "Box", damage: str) -> None:
    with open(paths.STANDBY, "w", encoding="utf-8") as file:
        file.write(damage)
    standby = ownership.standby()
    assert standby is not None
    assert standby.cause == PERSON
    with pytest.raises(NotPermitted):
        ownership.leave_standby(person=False)


def test_a_lock_that_is_a_dangling_link_is_a_lock(box: "Box") -> None:
    os.symlink("/nonexistent", paths.STANDBY)
    standby = ownership.standby()
    assert standby is not None
    assert standby.cause == PERSON
