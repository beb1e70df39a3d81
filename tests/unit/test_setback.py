"""Setbacks of the clock: noted, counted, and seen from one look to the next. No clock is set here."""

import time
from typing import TYPE_CHECKING

import pytest

from clusterd import paths, setback, state, view
from clusterd.setback import KEPT, Moment, Witness

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture(autouse=True)
def _box(box: "Box") -> None:
    """All of it happens in a box."""


def test_without_a_setback_a_moment_is_what_it_was() -> None:
    moment = setback.now()
    assert abs(moment.at - time.time()) < 10
    assert moment.earliest() == moment.at


def test_what_was_noted_later_counts() -> None:
    setback.note(50.0)
    moment = Moment(100.0, setback.now().setbacks)
    assert moment.earliest() == 100.0, "it was set back before"
    setback.note(70.0)
    setback.note(90.0)
    assert moment.earliest() == 70.0
    setback.note(20.0)
    assert moment.earliest() == 20.0
    assert Moment(10.0, 1).earliest() == 10.0, "the clock went less far back than that"
    assert Moment(100.0, setback.now().setbacks).earliest() == 100.0


def test_many_setbacks_take_no_more_room_and_none_is_forgotten() -> None:
    moments = []
    for number in range(KEPT + 50):
        moments.append(Moment(1e6, setback.now().setbacks))
        setback.note(float(number))
    assert len(state.read(paths.SETBACKS)["known"]) == KEPT
    for number, moment in enumerate(moments):
        assert moment.earliest() <= number


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"count": 1, "known": [1]}', "rubbish"])
def test_when_the_list_is_damaged_everything_may_be_new(text: str) -> None:
    state.write_text(paths.SETBACKS, text)
    assert Moment(100.0, 0).earliest() == 0.0
    assert setback.now().setbacks == 0


def test_when_the_list_is_lost_everything_from_before_may_be_new() -> None:
    assert Moment(100.0, 3).earliest() == 0.0


class Clocks:
    """Both clocks, as the test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boot, self.wall, self.reading = 1000.0, 5000.0, 0.0
        monkeypatch.setattr(view, "now", self._boot)
        monkeypatch.setattr(setback, "time", self)

    def _boot(self) -> float:
        self.boot += self.reading
        return self.boot

    def time(self) -> float:
        return self.wall

    def go(self, seconds: float, wall: float | None = None) -> None:
        """So much time passes; on the wall clock perhaps another time."""
        self.boot += seconds
        self.wall += seconds if wall is None else wall


@pytest.fixture(name="clocks")
def made_clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_the_first_look_after_a_boot_says_what_the_clock_shows(clocks: Clocks) -> None:
    witness = Witness(None)
    assert witness.look() == 5000.0
    clocks.go(0.1)
    assert witness.look() is None


def test_a_setback_is_seen_with_the_lowest_time_that_the_clock_may_have_shown(clocks: Clocks) -> None:
    witness = Witness((clocks.wall, clocks.boot))
    clocks.go(2.0, -3600.0)
    back = witness.look()
    assert back == 5000.0 - 3600.0 - 2.0
    clocks.go(0.1)
    assert witness.look() is None, "it is seen once"


def test_a_clock_that_goes_forward_or_is_slewed_is_no_setback(clocks: Clocks) -> None:
    witness = Witness((clocks.wall, clocks.boot))
    for passed, wall in ((0.1, 0.1 * 0.92), (0.1, 0.1 * 1.08), (0.1, 3600.0), (60.0, 60.0)):
        clocks.go(passed, wall)
        assert witness.look() is None


def test_a_look_that_was_held_up_says_nothing_and_forgets_nothing(clocks: Clocks) -> None:
    witness = Witness((clocks.wall, clocks.boot))
    clocks.go(0.1, -10.0)
    clocks.reading = 1.0
    assert witness.look() is None
    clocks.reading = 0.0
    back = witness.look()
    assert back is not None and back < 4990.0


def test_the_next_loop_of_a_boot_goes_on_where_the_last_one_was(clocks: Clocks) -> None:
    witness = Witness((clocks.wall, clocks.boot))
    clocks.go(0.1)
    witness.look()
    old = (witness.wall(clocks.boot + 0.01), clocks.boot + 0.01)
    clocks.go(30.0, -100.0)
    back = Witness(old).look()
    assert back is not None and back <= 5000.0 - 100.0
